// Three heads that lie in one array (Medusa, codebooks) are one product and one site, with three winners: the program chooses
// among the rows of each head alone.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %heads: tensor<3x64x8xf32>) -> tensor<1x3x2xi32> {
  %z = stablehlo.dot_general %x, %heads, contracting_dims = [1] x [2] : (tensor<1x8xf32>, tensor<3x64x8xf32>) -> tensor<1x3x64xf32> loc("medusa/logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x3x64xf32> -> (tensor<1x3x2xf32>, tensor<1x3x2xi32>)
  return %ids : tensor<1x3x2xi32>
}

// ===== report
hire_compiler: 0 sites, 1 miss
  miss     its 192 rows lie in several dimensions (3×64), which are not followed
             to where the program chooses among them  [medusa/logits]
