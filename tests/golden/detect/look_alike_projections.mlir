// Projections of attention (here queries, keys and the output, of two heads) are expected to stay: nothing is skipped
// there. A short report counts them.

// ===== input
func.func public @main(%x: tensor<1x16xf32>, %wq: tensor<16x16xf32>, %wk: tensor<16x16xf32>, %wo: tensor<16x16xf32>) -> tensor<1x16xf32> {
  %q = stablehlo.dot_general %x, %wq, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x16xf32>) -> tensor<1x16xf32> loc("attention/q/dot_general")
  %k = stablehlo.dot_general %x, %wk, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x16xf32>) -> tensor<1x16xf32> loc("attention/k/dot_general")
  %0 = stablehlo.reshape %q : (tensor<1x16xf32>) -> tensor<2x1x8xf32>
  %1 = stablehlo.reshape %k : (tensor<1x16xf32>) -> tensor<2x1x8xf32>
  %2 = stablehlo.dot_general %0, %1, batching_dims = [0] x [0], contracting_dims = [2] x [2] : (tensor<2x1x8xf32>, tensor<2x1x8xf32>) -> tensor<2x1x1xf32> loc("attention/scores/dot_general")
  %3 = stablehlo.exponential %2 : tensor<2x1x1xf32>
  %4 = stablehlo.dot_general %3, %1, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<2x1x1xf32>, tensor<2x1x8xf32>) -> tensor<2x1x8xf32> loc("attention/mixed/dot_general")
  %5 = stablehlo.reshape %4 : (tensor<2x1x8xf32>) -> tensor<1x16xf32>
  %6 = stablehlo.dot_general %5, %wo, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x16xf32>) -> tensor<1x16xf32> loc("attention/o/dot_general")
  return %6 : tensor<1x16xf32>
}

// ===== report
hire_compiler: 0 sites, 3 misses
  miss     a projection of attention (queries, keys or values): expected,
             nothing is skipped there  [attention/q]
  miss     a projection of attention (queries, keys or values): expected,
             nothing is skipped there  [attention/k]
  miss     the output projection of attention: expected, nothing is skipped
             there  [attention/o]
