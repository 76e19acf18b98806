// An ensemble runs two models on the same input in products that are batched over both: every model counts, so this is no
// block that chooses.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x2x32xf32>, %down: tensor<2x32x8xf32>) -> tensor<2x1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x2x32xf32>) -> tensor<1x2x32xf32> loc("models/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x2x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x2x32xf32>
  %2 = stablehlo.dot_general %1, %down, batching_dims = [1] x [0], contracting_dims = [2] x [1] : (tensor<1x2x32xf32>, tensor<2x32x8xf32>) -> tensor<2x1x8xf32> loc("models/down/dot_general")
  return %2 : tensor<2x1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     what it makes goes into a product that is batched over 2 matrices (an
             ensemble, or experts)  [models/up]
  miss     the product is batched over 2 matrices (experts or heads)
             [models/down]
