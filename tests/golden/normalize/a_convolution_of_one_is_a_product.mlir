// A convolution whose window has one element, as some models write their linear layers, is a matrix product.

// ===== input
func.func public @main(%x: tensor<2x3x4xf32>, %kernel: tensor<1x4x8xf32>) -> tensor<2x3x8xf32> {
  %0 = stablehlo.convolution(%x, %kernel) dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f], window = {stride = [1], pad = [[0, 0]], lhs_dilate = [1], rhs_dilate = [1], reverse = [false]} {batch_group_count = 1 : i64, feature_group_count = 1 : i64} : (tensor<2x3x4xf32>, tensor<1x4x8xf32>) -> tensor<2x3x8xf32> loc("mlp/up/conv")
  return %0 : tensor<2x3x8xf32>
}

// ===== report
stablehlo.convolution: 1 → 0
stablehlo.dot_general: 0 → 1
stablehlo.reshape: 0 → 2
stablehlo.transpose: 0 → 1

// ===== output
module {
  func.func public @main(%arg0: tensor<2x3x4xf32>, %arg1: tensor<1x4x8xf32>) -> tensor<2x3x8xf32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [2] x [1] : (tensor<2x3x4xf32>, tensor<1x4x8xf32>) -> tensor<2x3x1x8xf32>
    %1 = stablehlo.reshape %0 : (tensor<2x3x1x8xf32>) -> tensor<2x3x8xf32>
    %2 = stablehlo.transpose %1, dims = [0, 1, 2] : (tensor<2x3x8xf32>) -> tensor<2x3x8xf32>
    %3 = stablehlo.reshape %2 : (tensor<2x3x8xf32>) -> tensor<2x3x8xf32>
    return %3 : tensor<2x3x8xf32>
  }
}
