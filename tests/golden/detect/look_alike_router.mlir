// A router that scores 4 experts from 16 inputs has the readers of a head, a softmax, but fewer rows than inputs, so
// it is none.

// ===== input
func.func public @main(%x: tensor<2x16xf32>, %router: tensor<16x4xf32>) -> tensor<2x4xf32> {
  %0 = stablehlo.dot_general %x, %router, contracting_dims = [1] x [0] : (tensor<2x16xf32>, tensor<16x4xf32>) -> tensor<2x4xf32> loc("moe/router/dot_general")
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %1 = stablehlo.reduce(%0 init: %low) applies stablehlo.maximum across dimensions = [1] : (tensor<2x4xf32>, tensor<f32>) -> tensor<2xf32>
  %2 = stablehlo.broadcast_in_dim %1, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
  %3 = stablehlo.subtract %0, %2 : tensor<2x4xf32>
  %4 = stablehlo.exponential %3 : tensor<2x4xf32>
  %5 = stablehlo.reduce(%4 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<2x4xf32>, tensor<f32>) -> tensor<2xf32>
  %6 = stablehlo.broadcast_in_dim %5, dims = [0] : (tensor<2xf32>) -> tensor<2x4xf32>
  %7 = stablehlo.divide %4, %6 : tensor<2x4xf32>
  return %7 : tensor<2x4xf32>
}

// ===== report
hire_compiler: 0 sites, 1 miss
  miss     its 4 rows are no more than its 16 inputs: a projection, no
             vocabulary  [moe/router]
