// The two products of attention have no weight (queries against a cache of keys, then values), so they are never
// mentioned. The query projection before them is a product with a weight, so it is a miss that says what it is.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %wq: tensor<8x8xf32>, %keys: tensor<64x8xf32> , %step: tensor<i32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %wq, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x8xf32>) -> tensor<1x8xf32> loc("attention/q_proj/dot_general")
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %2 = stablehlo.dynamic_update_slice %keys, %0, %step, %zero : (tensor<64x8xf32>, tensor<1x8xf32>, tensor<i32>, tensor<i32>) -> tensor<64x8xf32>
  %3 = stablehlo.dot_general %0, %2, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<64x8xf32>) -> tensor<1x64xf32> loc("attention/scores/dot_general")
  %4 = stablehlo.exponential %3 : tensor<1x64xf32>
  %5 = stablehlo.dot_general %4, %2, contracting_dims = [1] x [0] : (tensor<1x64xf32>, tensor<64x8xf32>) -> tensor<1x8xf32> loc("attention/values/dot_general")
  return %5 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 1 miss
  miss     a projection of attention (queries, keys or values): expected,
             nothing is skipped there  [attention/q_proj]
