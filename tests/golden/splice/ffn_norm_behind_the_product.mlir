// Where a norm of the block's input divides behind the product instead of in front of it, it is one number of each batch
// row: it comes from outside the block, and the author's own number is repeated for the chosen neurons. A norm of the
// neurons needs all of them, and is a miss (detect/look_alike_normalised).

// ===== input
func.func public @main(%token: tensor<1x1xi32>, %embed: tensor<64x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %h = "stablehlo.gather"(%embed, %token) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: 1, 8>}> : (tensor<64x8xf32>, tensor<1x1xi32>) -> tensor<1x8xf32>
  %0 = stablehlo.dot_general %h, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %squares = stablehlo.multiply %h, %h : tensor<1x8xf32>
  %none = stablehlo.constant dense<0.0> : tensor<f32>
  %sum = stablehlo.reduce(%squares init: %none) applies stablehlo.add across dimensions = [1] : (tensor<1x8xf32>, tensor<f32>) -> tensor<1xf32>
  %inverse = stablehlo.rsqrt %sum : tensor<1xf32>
  %norm = stablehlo.broadcast_in_dim %inverse, dims = [0] : (tensor<1xf32>) -> tensor<1x32xf32>
  %1 = stablehlo.multiply %0, %norm : tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %2 = stablehlo.maximum %1, %zero : tensor<1x32xf32>
  %3 = stablehlo.dot_general %2, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %3 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact(), candidates=8, group=1),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 1.4 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             Exact(), 8 of 32 rows exact; 2.0 kB → 1.4 kB read a call, 1.2 kB
               added
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, arg3, and prepared:
  %arg4 is largest, from arg2, arg3
  %arg5 is limit0, from arg2, arg3
  %arg6 is rows0, from arg2, arg3
results of the step: the author's, and proof of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x1xi32>, %arg1: tensor<64x8xf32>, %arg2: tensor<8x32xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<1xf32>, %arg5: tensor<32xf32>, %arg6: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    %0 = "stablehlo.gather"(%arg1, %arg0) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: 1, 8>}> : (tensor<64x8xf32>, tensor<1x1xi32>) -> tensor<1x8xf32>
    %1 = stablehlo.multiply %0, %0 : tensor<1x8xf32>
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %2 = stablehlo.reduce(%1 init: %cst) applies stablehlo.add across dimensions = [1] : (tensor<1x8xf32>, tensor<f32>) -> tensor<1xf32>
    %3 = stablehlo.rsqrt %2 : tensor<1xf32>
    %4:2 = call @hire_site(%arg4, %arg5, %arg6, %arg3, %0, %3, %0, %arg2, %2, %arg3) : (tensor<1xf32>, tensor<32xf32>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1xf32>, tensor<1x8xf32>, tensor<8x32xf32>, tensor<1xf32>, tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>)
    return %4#0, %4#1 : tensor<1x8xf32>, tensor<68xi32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<1xf32>, %arg3: tensor<32x8xf32>) -> tensor<1x8xf32> { … }
  func.func private @hire_site(%arg0: tensor<1xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<1x8xf32>, %arg5: tensor<1xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<8x32xf32>, %arg8: tensor<1xf32>, %arg9: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … case {
      … top_k 32xf32 → 8xf32, 8xi32
      … gather 32x8xf32 → 1x8xf32  ×8
      … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … } {
      … dot_general 1x32xf32, 32x8xf32 → 1x8xf32
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
