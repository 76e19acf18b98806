// A number of each row of the batch that multiplies the neurons (here a mask of padding) is repeated as it stands, for the
// chosen neurons.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %real: tensor<2xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<2x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x32xf32>) -> tensor<2x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<2x32xf32>
  %mask = stablehlo.broadcast_in_dim %real, dims = [0] : (tensor<2xf32>) -> tensor<2x32xf32>
  %2 = stablehlo.multiply %1, %mask : tensor<2x32xf32>
  %3 = stablehlo.dot_general %2, %down, contracting_dims = [1] x [0] : (tensor<2x32xf32>, tensor<32x8xf32>) -> tensor<2x8xf32> loc("mlp/down/dot_general")
  return %3 : tensor<2x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=4),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 0.6 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 2
             LowRank(rank=1, bfloat16), 8 of 32 rows exact in groups of 4; 2.0
               kB → 0.6 kB read a call, 1.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg1, arg3, and prepared:
  %arg3 is a_rows, from arg2, arg3
  %arg4 is b, from arg2, arg3
  %arg5 is rows0, from arg2, arg3

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<2xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1x8xf32>, %arg4: tensor<32x1xui16>, %arg5: tensor<32x8xf32>) -> tensor<2x8xf32> {
    %0 = call @hire_site(%arg3, %arg4, %arg5, %arg2, %arg0, %arg1) : (tensor<1x8xf32>, tensor<32x1xui16>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<2x8xf32>, tensor<2xf32>) -> tensor<2x8xf32>
    return %0 : tensor<2x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<1x8xf32>, %arg1: tensor<32x1xui16>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<2x8xf32>, %arg5: tensor<2xf32>) -> (tensor<2x8xf32>) {
    … dot_general 2x8xf32, 8x1xf32 → 2x1xf32
    … dot_general 1x1xf32, 1x32xf32 → 1x32xf32  ×2
    … top_k 8xf32 → 2xf32, 2xi32
    … gather 8x4x8xf32 → 2x4x8xf32
    … dot_general 2x8xf32, 8x8xf32 → 2x8xf32
    … gather 2x8x4xf32 → 2x2x4xf32
    … gather 8x4x8xf32 → 2x4x8xf32
    … dot_general 2x8xf32, 8x8xf32 → 2x8xf32
  }
}
