// An embedding looked up by a one-hot product is no head, whatever the size of the vocabulary. Its left side is a
// comparison, its result is a residual stream, and its rows are contracted away.

// ===== input
func.func public @main(%token: tensor<2xi32>, %embed: tensor<128x8xf32>) -> tensor<2x8xf32> {
  %0 = stablehlo.broadcast_in_dim %token, dims = [0] : (tensor<2xi32>) -> tensor<2x128xi32>
  %1 = stablehlo.iota dim = 1 : tensor<2x128xi32>
  %2 = stablehlo.compare EQ, %0, %1, SIGNED : (tensor<2x128xi32>, tensor<2x128xi32>) -> tensor<2x128xi1>
  %3 = stablehlo.convert %2 : (tensor<2x128xi1>) -> tensor<2x128xf32>
  %4 = stablehlo.dot_general %3, %embed, contracting_dims = [1] x [0] : (tensor<2x128xf32>, tensor<128x8xf32>) -> tensor<2x8xf32> loc("embed/dot_general")
  return %4 : tensor<2x8xf32>
}

// ===== report
hire_compiler: 0 sites, 1 miss
  miss     its 8 rows are no more than its 128 inputs: a projection, no
             vocabulary  [embed]
