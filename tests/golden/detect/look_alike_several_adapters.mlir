// A batch in which every row names its own adapter (multi-LoRA) gathers whole matrices by number: which they are differs
// from call to call, so they are no weight of a site.

// ===== input
func.func public @main(%x: tensor<2x16xf32>, %which: tensor<2x1xi32>, %w: tensor<16x16xf32>, %a: tensor<4x16x2xf32>, %b: tensor<4x2x16xf32>) -> tensor<2x1x16xf32> {
  %0 = "stablehlo.gather"(%a, %which) <{dimension_numbers = #stablehlo.gather<offset_dims = [1, 2], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 16, 2>}> : (tensor<4x16x2xf32>, tensor<2x1xi32>) -> tensor<2x16x2xf32>
  %1 = "stablehlo.gather"(%b, %which) <{dimension_numbers = #stablehlo.gather<offset_dims = [1, 2], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 2, 16>}> : (tensor<4x2x16xf32>, tensor<2x1xi32>) -> tensor<2x2x16xf32>
  %h = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x16xf32>, tensor<16x16xf32>) -> tensor<2x16xf32> loc("before/dot_general")
  %2 = stablehlo.reshape %h : (tensor<2x16xf32>) -> tensor<2x1x16xf32>
  %3 = stablehlo.dot_general %2, %0, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<2x1x16xf32>, tensor<2x16x2xf32>) -> tensor<2x1x2xf32> loc("lora/a/dot_general")
  %4 = stablehlo.dot_general %3, %1, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<2x1x2xf32>, tensor<2x2x16xf32>) -> tensor<2x1x16xf32> loc("lora/b/dot_general")
  return %4 : tensor<2x1x16xf32>
}

// ===== report
hire_compiler: 0 sites, 3 misses
  miss     its result goes into another product (lora/a)  [before]
  miss     it is one of 4 parameters, picked by numbers (experts, or adapters)
             [lora/a]
  miss     it is one of 4 parameters, picked by numbers (experts, or adapters)
             [lora/b]
