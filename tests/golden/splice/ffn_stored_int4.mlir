// Rows of four-bit numbers are gathered as they are stored, together with their scales (here one for every eight inputs of
// a neuron). Only the chosen rows are unpacked.

// ===== input
func.func public @main(%x: tensor<2x16xf32>, %up: tensor<32x16xi4>, %up_scale: tensor<32x2xf32>, %down: tensor<32x16xi4>, %down_scale: tensor<32x2xf32>) -> tensor<2x16xf32> {
  %0 = stablehlo.convert %up : (tensor<32x16xi4>) -> tensor<32x16xf32>
  %1 = stablehlo.reshape %0 : (tensor<32x16xf32>) -> tensor<32x2x8xf32>
  %2 = stablehlo.broadcast_in_dim %up_scale, dims = [0, 1] : (tensor<32x2xf32>) -> tensor<32x2x8xf32>
  %3 = stablehlo.multiply %1, %2 : tensor<32x2x8xf32>
  %w = stablehlo.reshape %3 : (tensor<32x2x8xf32>) -> tensor<32x16xf32>
  %4 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<2x16xf32>, tensor<32x16xf32>) -> tensor<2x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x32xf32>
  %5 = stablehlo.maximum %4, %zero : tensor<2x32xf32>
  %6 = stablehlo.convert %down : (tensor<32x16xi4>) -> tensor<32x16xf32>
  %7 = stablehlo.reshape %6 : (tensor<32x16xf32>) -> tensor<32x2x8xf32>
  %8 = stablehlo.broadcast_in_dim %down_scale, dims = [0, 1] : (tensor<32x2xf32>) -> tensor<32x2x8xf32>
  %9 = stablehlo.multiply %7, %8 : tensor<32x2x8xf32>
  %v = stablehlo.reshape %9 : (tensor<32x2x8xf32>) -> tensor<32x16xf32>
  %10 = stablehlo.dot_general %5, %v, contracting_dims = [1] x [0] : (tensor<2x32xf32>, tensor<32x16xf32>) -> tensor<2x16xf32> loc("mlp/down/dot_general")
  return %10 : tensor<2x16xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=4),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.4 kB read a call
  on?      ffn/0: relu 16→32 int4 as float32 batch 2
             LowRank(rank=1, bfloat16), 8 of 32 rows exact in groups of 4; 1.0
               kB → 0.4 kB read a call, 0.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg1, arg2, arg3, arg4, and prepared:
  %arg5 is a_rows, from arg1, arg2, arg3, arg4
  %arg6 is b, from arg1, arg2, arg3, arg4

// ===== output
module {
  func.func public @main(%arg0: tensor<2x16xf32>, %arg1: tensor<32x16xi4>, %arg2: tensor<32x2xf32>, %arg3: tensor<32x16xi4>, %arg4: tensor<32x2xf32>, %arg5: tensor<1x16xf32>, %arg6: tensor<32x1xui16>) -> tensor<2x16xf32> {
    %0 = call @hire_site(%arg5, %arg6, %arg1, %arg2, %arg3, %arg4, %arg0) : (tensor<1x16xf32>, tensor<32x1xui16>, tensor<32x16xi4>, tensor<32x2xf32>, tensor<32x16xi4>, tensor<32x2xf32>, tensor<2x16xf32>) -> tensor<2x16xf32>
    return %0 : tensor<2x16xf32>
  }
  func.func private @hire_site(%arg0: tensor<1x16xf32>, %arg1: tensor<32x1xui16>, %arg2: tensor<32x16xi4>, %arg3: tensor<32x2xf32>, %arg4: tensor<32x16xi4>, %arg5: tensor<32x2xf32>, %arg6: tensor<2x16xf32>) -> (tensor<2x16xf32>) {
    … dot_general 2x16xf32, 16x1xf32 → 2x1xf32
    … dot_general 1x1xf32, 1x32xf32 → 1x32xf32  ×2
    … top_k 8xf32 → 2xf32, 2xi32
    … gather 8x64xi8 → 2x64xi8
    … gather 8x8xf32 → 2x8xf32
    … dot_general 2x16xf32, 16x8xf32 → 2x8xf32
    … gather 8x64xi8 → 2x64xi8
    … gather 8x8xf32 → 2x8xf32
    … dot_general 2x8xf32, 8x16xf32 → 2x16xf32
  }
}
