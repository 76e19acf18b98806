// Two products that read the same matrix, there and back, are a look into a memory (or an autoencoder with tied weights),
// no feed-forward block.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %w: tensor<8x32xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("memory/there/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %w, contracting_dims = [1] x [1] : (tensor<1x32xf32>, tensor<8x32xf32>) -> tensor<1x8xf32> loc("memory/back/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     both products read the same parameter (attention to a memory, not a
             feed-forward)  [memory/there]
  miss     both products read the same parameter (attention to a memory, not a
             feed-forward)  [memory/back]
