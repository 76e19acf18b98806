// Rows that are looked up by number and then multiplied with are another matrix in each call; the table is no weight of a
// block.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %ids: tensor<12x1xi32>, %table: tensor<64x8xf32>, %w: tensor<8x8xf32>) -> tensor<1x12xf32> {
  %0 = "stablehlo.gather"(%table, %ids) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 8>}> : (tensor<64x8xf32>, tensor<12x1xi32>) -> tensor<12x8xf32>
  %h = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x8xf32>) -> tensor<1x8xf32> loc("query/dot_general")
  %1 = stablehlo.dot_general %h, %0, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<12x8xf32>) -> tensor<1x12xf32> loc("scores/dot_general")
  return %1 : tensor<1x12xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     its result goes into another product (scores)  [query]
  miss     its rows are looked up by numbers, so it is another weight in each
             call  [scores]
