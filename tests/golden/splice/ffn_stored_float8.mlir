// Weights of eight-bit floats, with one scale for a matrix, are gathered as they are stored and widened where they are used.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<32x8xf8E4M3FN>, %up_scale: tensor<f32>, %down: tensor<32x8xf8E4M3FN>, %down_scale: tensor<f32>) -> tensor<1x8xf32> {
  %0 = stablehlo.convert %up : (tensor<32x8xf8E4M3FN>) -> tensor<32x8xf32>
  %1 = stablehlo.broadcast_in_dim %up_scale, dims = [] : (tensor<f32>) -> tensor<32x8xf32>
  %w = stablehlo.multiply %0, %1 : tensor<32x8xf32>
  %2 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %3 = stablehlo.maximum %2, %zero : tensor<1x32xf32>
  %4 = stablehlo.convert %down : (tensor<32x8xf8E4M3FN>) -> tensor<32x8xf32>
  %5 = stablehlo.broadcast_in_dim %down_scale, dims = [] : (tensor<f32>) -> tensor<32x8xf32>
  %v = stablehlo.multiply %4, %5 : tensor<32x8xf32>
  %6 = stablehlo.dot_general %3, %v, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %6 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=4),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.5 kB → 0.2 kB read a call
  on?      ffn/0: relu 8→32 float8_e4m3fn as float32 batch 1
             LowRank(rank=1, bfloat16), 8 of 32 rows exact in groups of 4; 0.5
               kB → 0.2 kB read a call, 0.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg1, arg2, arg3, arg4, and prepared:
  %arg5 is a_rows, from arg1, arg2, arg3, arg4
  %arg6 is b, from arg1, arg2, arg3, arg4

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf8E4M3FN>, %arg2: tensor<f32>, %arg3: tensor<32x8xf8E4M3FN>, %arg4: tensor<f32>, %arg5: tensor<1x8xf32>, %arg6: tensor<32x1xui16>) -> tensor<1x8xf32> {
    %0 = call @hire_site(%arg5, %arg6, %arg1, %arg2, %arg3, %arg4, %arg0) : (tensor<1x8xf32>, tensor<32x1xui16>, tensor<32x8xf8E4M3FN>, tensor<f32>, tensor<32x8xf8E4M3FN>, tensor<f32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    return %0 : tensor<1x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<1x8xf32>, %arg1: tensor<32x1xui16>, %arg2: tensor<32x8xf8E4M3FN>, %arg3: tensor<f32>, %arg4: tensor<32x8xf8E4M3FN>, %arg5: tensor<f32>, %arg6: tensor<1x8xf32>) -> (tensor<1x8xf32>) {
    … dot_general 1x8xf32, 8x1xf32 → 1x1xf32
    … dot_general 1x1xf32, 1x32xf32 → 1x32xf32
    … top_k 8xf32 → 2xf32, 2xi32
    … gather 8x32xui8 → 2x32xui8
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … gather 32x8xui8 → 1x8xui8  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
  }
}
