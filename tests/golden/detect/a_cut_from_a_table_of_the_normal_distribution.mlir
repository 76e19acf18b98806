// A cut that is a quantile of the normal distribution (here by erf_inv) is evaluated once by XLA, as it would be in the
// author's program, and read as its number.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %share = stablehlo.constant dense<0.5> : tensor<f32>
  %quantile = chlo.erf_inv %share : tensor<f32> -> tensor<f32>
  %cut = stablehlo.broadcast_in_dim %quantile, dims = [] : (tensor<f32>) -> tensor<1x32xf32>
  %1 = stablehlo.subtract %0, %cut : tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %2 = stablehlo.maximum %1, %zero : tensor<1x32xf32>
  %3 = stablehlo.dot_general %2, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %3 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  ffn      custom 8→32 float32 batch 1  [mlp/down]
