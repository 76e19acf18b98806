// The int8 rows of a block that is stored narrow are gathered as they are, with their scales. Only what is chosen is
// converted; no float copy of a weight is made.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %up: tensor<32x8xi8>, %up_scale: tensor<32xf32>, %down: tensor<32x8xi8>, %down_scale: tensor<32xf32>) -> tensor<2x8xf32> {
  %0 = stablehlo.convert %up : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %1 = stablehlo.broadcast_in_dim %up_scale, dims = [0] : (tensor<32xf32>) -> tensor<32x8xf32>
  %w = stablehlo.multiply %0, %1 : tensor<32x8xf32>
  %2 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<2x8xf32>, tensor<32x8xf32>) -> tensor<2x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x32xf32>
  %3 = stablehlo.maximum %2, %zero : tensor<2x32xf32>
  %4 = stablehlo.convert %down : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %5 = stablehlo.broadcast_in_dim %down_scale, dims = [0] : (tensor<32xf32>) -> tensor<32x8xf32>
  %v = stablehlo.multiply %4, %5 : tensor<32x8xf32>
  %6 = stablehlo.dot_general %3, %v, contracting_dims = [1] x [0] : (tensor<2x32xf32>, tensor<32x8xf32>) -> tensor<2x8xf32> loc("mlp/down/dot_general")
  return %6 : tensor<2x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=2), density=0.25, group=2),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.8 kB → 0.4 kB read a call
  on?      ffn/0: relu 8→32 int8 as float32 batch 2
             LowRank(rank=2, bfloat16), 8 of 32 rows exact in groups of 2; 0.8
               kB → 0.4 kB read a call, 0.2 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg1, arg2, arg3, arg4, and prepared:
  %arg5 is a_rows, from arg1, arg2, arg3, arg4
  %arg6 is b, from arg1, arg2, arg3, arg4

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<32x8xi8>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<2x8xf32>, %arg6: tensor<32x2xui16>) -> tensor<2x8xf32> {
    %0 = call @hire_site(%arg5, %arg6, %arg1, %arg2, %arg3, %arg4, %arg0) : (tensor<2x8xf32>, tensor<32x2xui16>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<2x8xf32>) -> tensor<2x8xf32>
    return %0 : tensor<2x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<2x8xf32>, %arg1: tensor<32x2xui16>, %arg2: tensor<32x8xi8>, %arg3: tensor<32xf32>, %arg4: tensor<32x8xi8>, %arg5: tensor<32xf32>, %arg6: tensor<2x8xf32>) -> (tensor<2x8xf32>) {
    … dot_general 2x8xf32, 8x2xf32 → 2x2xf32
    … dot_general 1x2xf32, 2x32xf32 → 1x32xf32  ×2
    … top_k 16xf32 → 4xf32, 4xi32
    … gather 16x16xi8 → 4x16xi8
    … gather 16x2xf32 → 4x2xf32
    … dot_general 2x8xf32, 8x8xf32 → 2x8xf32
    … gather 16x16xi8 → 4x16xi8
    … gather 16x2xf32 → 4x2xf32
    … dot_general 2x8xf32, 8x8xf32 → 2x8xf32
  }
}
