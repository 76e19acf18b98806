// An argument whose buffer the caller gives away (donates) and gets back changed is state, no weight: nothing can be
// prepared from it once. So its product is none with a weight, and the layer behind it ends no block.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %w: tensor<8x8xf32>, %memory: tensor<8x32xf32> {tf.aliasing_output = 1 : i32}, %down: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<8x32xf32>) {
  %q = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x8xf32>) -> tensor<1x8xf32> loc("memory/query/dot_general")
  %0 = stablehlo.dot_general %q, %memory, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("memory/read/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("memory/down/dot_general")
  %3 = stablehlo.add %memory, %memory : tensor<8x32xf32>
  return %2, %3 : tensor<1x8xf32>, tensor<8x32xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     a projection of attention (queries, keys or values): expected,
             nothing is skipped there  [memory/query]
  miss     its 8 rows are no more than its 32 inputs: a projection, no
             vocabulary  [memory/down]
