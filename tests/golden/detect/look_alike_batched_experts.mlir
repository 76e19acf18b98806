// Experts whose products are batched over four matrices are no dense block: which expert works is decided elsewhere.
// The reason counts them.

// ===== input
func.func public @main(%x: tensor<4x2x8xf32>, %up: tensor<4x8x32xf32>, %down: tensor<4x32x8xf32>) -> tensor<4x2x8xf32> {
  %0 = stablehlo.dot_general %x, %up, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<4x2x8xf32>, tensor<4x8x32xf32>) -> tensor<4x2x32xf32> loc("moe/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<4x2x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<4x2x32xf32>
  %2 = stablehlo.dot_general %1, %down, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<4x2x32xf32>, tensor<4x32x8xf32>) -> tensor<4x2x8xf32> loc("moe/down/dot_general")
  return %2 : tensor<4x2x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     the product is batched over 4 matrices (experts or heads)  [moe/up]
  miss     the product is batched over 4 matrices (experts or heads)  [moe/down]
