// A ragged product multiplies each row by the matrix of its own expert: only the chosen experts work already, so there is
// nothing to skip.

// ===== input
func.func public @main(%x: tensor<8x16xf32>, %up: tensor<4x16x32xf32>, %down: tensor<4x32x16xf32>, %sizes: tensor<4xi32>) -> tensor<8x16xf32> {
  %0 = "chlo.ragged_dot"(%x, %up, %sizes) <{ragged_dot_dimension_numbers = #chlo.ragged_dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1], lhs_ragged_dimensions = [0], rhs_group_dimensions = [0]>}> : (tensor<8x16xf32>, tensor<4x16x32xf32>, tensor<4xi32>) -> tensor<8x32xf32> loc("moe/up/ragged_dot")
  %zero = stablehlo.constant dense<0.0> : tensor<8x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<8x32xf32>
  %2 = "chlo.ragged_dot"(%1, %down, %sizes) <{ragged_dot_dimension_numbers = #chlo.ragged_dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1], lhs_ragged_dimensions = [0], rhs_group_dimensions = [0]>}> : (tensor<8x32xf32>, tensor<4x32x16xf32>, tensor<4xi32>) -> tensor<8x16xf32> loc("moe/down/ragged_dot")
  return %2 : tensor<8x16xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     a ragged product: the parts of its weight take only the rows that a
             router gave them  [moe/up]
  miss     a ragged product: the parts of its weight take only the rows that a
             router gave them  [moe/down]
