// Attention to keys and values that are arguments (an encoder's, computed once) has the shape of a block; the softmax
// between the two products tells it apart. Nothing is skipped there, and that is expected.

// ===== input
func.func public @main(%x: tensor<2x1x8xf32>, %query: tensor<8x8xf32>, %keys: tensor<2x32x8xf32>, %values: tensor<2x32x8xf32>) -> tensor<2x1x8xf32> {
  %q = stablehlo.dot_general %x, %query, contracting_dims = [2] x [0] : (tensor<2x1x8xf32>, tensor<8x8xf32>) -> tensor<2x1x8xf32> loc("cross/query/dot_general")
  %0 = stablehlo.dot_general %q, %keys, batching_dims = [0] x [0], contracting_dims = [2] x [2] : (tensor<2x1x8xf32>, tensor<2x32x8xf32>) -> tensor<2x1x32xf32> loc("cross/scores/dot_general")
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %none = stablehlo.constant dense<0.0> : tensor<f32>
  %1 = stablehlo.reduce(%0 init: %low) applies stablehlo.maximum across dimensions = [2] : (tensor<2x1x32xf32>, tensor<f32>) -> tensor<2x1xf32>
  %2 = stablehlo.broadcast_in_dim %1, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x1x32xf32>
  %3 = stablehlo.subtract %0, %2 : tensor<2x1x32xf32>
  %4 = stablehlo.exponential %3 : tensor<2x1x32xf32>
  %5 = stablehlo.reduce(%4 init: %none) applies stablehlo.add across dimensions = [2] : (tensor<2x1x32xf32>, tensor<f32>) -> tensor<2x1xf32>
  %6 = stablehlo.broadcast_in_dim %5, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x1x32xf32>
  %7 = stablehlo.divide %4, %6 : tensor<2x1x32xf32>
  %8 = stablehlo.dot_general %7, %values, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<2x1x32xf32>, tensor<2x32x8xf32>) -> tensor<2x1x8xf32> loc("cross/values/dot_general")
  return %8 : tensor<2x1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 3 misses
  miss     a projection of attention (queries, keys or values): expected,
             nothing is skipped there  [cross/query]
  miss     keys or values of attention that are an argument: expected, nothing
             is skipped there  [cross/scores]
  miss     keys or values of attention that are an argument: expected, nothing
             is skipped there  [cross/values]
