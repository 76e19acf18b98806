// Experts that are merged into one matrix by numbers of the call are another weight in each call.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %shares: tensor<4xf32>, %experts: tensor<4x8x16xf32>) -> tensor<1x16xf32> {
  %0 = stablehlo.dot_general %shares, %experts, contracting_dims = [0] x [0] : (tensor<4xf32>, tensor<4x8x16xf32>) -> tensor<8x16xf32> loc("merged/dot_general")
  %1 = stablehlo.dot_general %x, %0, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x16xf32>) -> tensor<1x16xf32> loc("expert/dot_general")
  return %1 : tensor<1x16xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     it mixes 4 matrices by numbers of the call, so what is multiplied is
             another weight each time  [merged]
  miss     its 1 rows are no more than its 8 inputs: a projection, no vocabulary
             [expert]
