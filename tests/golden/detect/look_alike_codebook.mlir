// A weight whose numbers are looked up in a table of sixteen (nf4 and its like) is not followed.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %w: tensor<8x32xui8>, %table: tensor<16xf32>) -> (tensor<1x4xf32>, tensor<1x4xi32>) {
  %0 = stablehlo.convert %w : (tensor<8x32xui8>) -> tensor<8x32xi32>
  %1 = stablehlo.reshape %0 : (tensor<8x32xi32>) -> tensor<8x32x1xi32>
  %2 = "stablehlo.gather"(%table, %1) <{dimension_numbers = #stablehlo.gather<collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, indices_are_sorted = false, slice_sizes = array<i64: 1>}> : (tensor<16xf32>, tensor<8x32x1xi32>) -> tensor<8x32xf32>
  %3 = stablehlo.dot_general %x, %2, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %v, %i = chlo.top_k(%3, k = 4) : tensor<1x32xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  return %v, %i : tensor<1x4xf32>, tensor<1x4xi32>
}

// ===== report
hire_compiler: 0 sites, 1 miss
  miss     a quantised weight (uint8): its numbers are looked up in a codebook
             (the program's own), which is not followed  [logits]
