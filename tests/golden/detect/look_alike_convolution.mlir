// A convolution that looks at three positions is no matrix product, and the layer behind it ends no block.

// ===== input
func.func public @main(%x: tensor<1x6x8xf32>, %kernel: tensor<3x8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x6x8xf32> {
  %0 = stablehlo.convolution(%x, %kernel) dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f], window = {stride = [1], pad = [[1, 1]]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64} : (tensor<1x6x8xf32>, tensor<3x8x32xf32>) -> tensor<1x6x32xf32> loc("mlp/conv/conv_general_dilated")
  %zero = stablehlo.constant dense<0.0> : tensor<1x6x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x6x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [2] x [0] : (tensor<1x6x32xf32>, tensor<32x8xf32>) -> tensor<1x6x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x6x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     a convolution with a window of several positions, or in groups
             [mlp/conv]
  miss     its input is made by a convolution with a window of several
             positions, or in groups: no block of matrix products ends here
             [mlp/down]
