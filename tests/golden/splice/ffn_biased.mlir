// A bias on the neurons is added to their predictions and, for the chosen ones, to the exact numbers. The bias
// behind the second product is not part of the block, and stays where it is.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %bias: tensor<32xf32>, %down: tensor<32x8xf32>, %last: tensor<8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %1 = stablehlo.broadcast_in_dim %bias, dims = [1] : (tensor<32xf32>) -> tensor<1x32xf32>
  %2 = stablehlo.add %0, %1 : tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %3 = stablehlo.maximum %2, %zero : tensor<1x32xf32>
  %4 = stablehlo.dot_general %3, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  %5 = stablehlo.broadcast_in_dim %last, dims = [1] : (tensor<8xf32>) -> tensor<1x8xf32>
  %6 = stablehlo.add %4, %5 : tensor<1x8xf32>
  return %6 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=2), density=0.25, group=2),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 0.7 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             LowRank(rank=2, bfloat16), 8 of 32 rows exact in groups of 2; 2.0
               kB → 0.7 kB read a call, 1.2 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg2, arg3, arg4, and prepared:
  %arg4 is a_rows, from arg1, arg3
  %arg5 is b, from arg1, arg3
  %arg6 is rows0, from arg1, arg3

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<8xf32>, %arg4: tensor<2x8xf32>, %arg5: tensor<32x2xui16>, %arg6: tensor<32x8xf32>) -> tensor<1x8xf32> {
    %0 = call @hire_site(%arg4, %arg5, %arg6, %arg2, %arg1, %arg0) : (tensor<2x8xf32>, tensor<32x2xui16>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<32xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    %1 = stablehlo.broadcast_in_dim %arg3, dims = [1] : (tensor<8xf32>) -> tensor<1x8xf32>
    %2 = stablehlo.add %0, %1 : tensor<1x8xf32>
    return %2 : tensor<1x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<2x8xf32>, %arg1: tensor<32x2xui16>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<32xf32>, %arg5: tensor<1x8xf32>) -> (tensor<1x8xf32>) {
    … dot_general 1x8xf32, 8x2xf32 → 1x2xf32
    … dot_general 1x2xf32, 2x32xf32 → 1x32xf32
    … top_k 16xf32 → 4xf32, 4xi32
    … gather 16x2x8xf32 → 4x2x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … gather 16x2xf32 → 4x2xf32
    … gather 32x8xf32 → 1x8xf32  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
  }
}
