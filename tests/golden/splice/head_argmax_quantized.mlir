// A tied head of which only the argmax is read: the int8 copy and its scales become arguments, six candidates are
// scored exactly from the embedding itself, and the reduction over the vocabulary is gone.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>) -> tensor<1xi32> {
  %0 = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %1 = stablehlo.iota dim = 1 : tensor<1x32xi32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %2:2 = stablehlo.reduce(%0 init: %low), (%1 init: %zero) across dimensions = [1] : (tensor<1x32xf32>, tensor<1x32xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %3 = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %4 = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %5 = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %6 = stablehlo.and %4, %5 : tensor<i1>
    %7 = stablehlo.or %3, %6 : tensor<i1>
    %8 = stablehlo.select %3, %a, %b : tensor<i1>, tensor<f32>
    %9 = stablehlo.select %7, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %8, %9 : tensor<f32>, tensor<i32>
  }
  return %2#1 : tensor<1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=6),))

// ===== report
hire_compiler: 1 sites, 1 rewritten, 0 misses
  head  argmax 8→32 float32 batch 1
        rewritten: Quantized(bits=8), 6 of 32 rows exact; 1.0 kB → 0.6 kB read a call, 0.4 kB added; approximate: the winners are exact unless the predictor missed one
arguments of the step:
  %arg0 is arg0
  %arg1 is arg1
  %arg2 is q of head|Quantized(bits=8)||cpu|arg1|arg1
  %arg3 is scale of head|Quantized(bits=8)||cpu|arg1|arg1

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<32x8xi8>, %arg3: tensor<32xf32>) -> tensor<1xi32> {
    %0:2 = call @hire_site(%arg2, %arg3, %arg1, %arg0) : (tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>) -> (tensor<1xf32>, tensor<1xi32>)
    return %0#1 : tensor<1xi32>
  }
  func.func private @hire_site(%arg0: tensor<32x8xi8>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1x8xf32>) -> (tensor<1xf32> {jax.result_info = "result[0]"}, tensor<1xi32> {jax.result_info = "result[1]"}) {
    %0 = stablehlo.convert %arg0 : (tensor<32x8xi8>) -> tensor<32x8xf32>
    %1 = stablehlo.transpose %0, dims = [1, 0] : (tensor<32x8xf32>) -> tensor<8x32xf32>
    %2 = stablehlo.dot_general %arg3, %1, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32>
    %3 = stablehlo.broadcast_in_dim %arg1, dims = [1] : (tensor<32xf32>) -> tensor<1x32xf32>
    %4 = stablehlo.multiply %2, %3 : tensor<1x32xf32>
    %5:2 = stablehlo.composite "chlo.top_k" %4 {composite_attributes = {k = 6 : i64}, decomposition = @chlo.top_k.impl, version = 1 : i32} : (tensor<1x32xf32>) -> (tensor<1x6xf32>, tensor<1x6xi32>)
    %6 = call @sort(%5#1) : (tensor<1x6xi32>) -> tensor<1x6xi32>
    %7 = stablehlo.reshape %6 : (tensor<1x6xi32>) -> tensor<6xi32>
    %8 = call @_take(%arg2, %7) : (tensor<32x8xf32>, tensor<6xi32>) -> tensor<6x8xf32>
    %9 = stablehlo.transpose %8, dims = [1, 0] : (tensor<6x8xf32>) -> tensor<8x6xf32>
    %10 = stablehlo.dot_general %arg3, %9, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x6xf32>) -> tensor<1x6xf32>
    %11 = call @argmax(%10) : (tensor<1x6xf32>) -> tensor<1xi32>
    %12 = stablehlo.broadcast_in_dim %11, dims = [0] : (tensor<1xi32>) -> tensor<1x1xi32>
    %13 = call @take_along_axis(%10, %12) : (tensor<1x6xf32>, tensor<1x1xi32>) -> tensor<1x1xf32>
    %14 = call @take_along_axis_0(%6, %12) : (tensor<1x6xi32>, tensor<1x1xi32>) -> tensor<1x1xi32>
    %15 = stablehlo.reshape %13 : (tensor<1x1xf32>) -> tensor<1xf32>
    %16 = stablehlo.reshape %14 : (tensor<1x1xi32>) -> tensor<1xi32>
    return %15, %16 : tensor<1xf32>, tensor<1xi32>
  }
  func.func private @chlo.top_k.impl(%arg0: tensor<1x32xf32>) -> (tensor<1x6xf32>, tensor<1x6xi32>) {
    %0 = stablehlo.iota dim = 1 : tensor<1x32xi32>
    %1:2 = "stablehlo.sort"(%arg0, %0) <{dimension = 1 : i64, is_stable = true}> ({
    ^bb0(%arg1: tensor<f32>, %arg2: tensor<f32>, %arg3: tensor<i32>, %arg4: tensor<i32>):
      %4 = stablehlo.compare GT, %arg1, %arg2, TOTALORDER : (tensor<f32>, tensor<f32>) -> tensor<i1>
      stablehlo.return %4 : tensor<i1>
    }) : (tensor<1x32xf32>, tensor<1x32xi32>) -> (tensor<1x32xf32>, tensor<1x32xi32>)
    %2 = stablehlo.slice %1#0 [0:1, 0:6] : (tensor<1x32xf32>) -> tensor<1x6xf32>
    %3 = stablehlo.slice %1#1 [0:1, 0:6] : (tensor<1x32xi32>) -> tensor<1x6xi32>
    return %2, %3 : tensor<1x6xf32>, tensor<1x6xi32>
  }
  func.func private @sort(%arg0: tensor<1x6xi32>) -> tensor<1x6xi32> {
    %0 = "stablehlo.sort"(%arg0) <{dimension = 1 : i64, is_stable = true}> ({
    ^bb0(%arg1: tensor<i32>, %arg2: tensor<i32>):
      %1 = stablehlo.compare LT, %arg1, %arg2, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    }) : (tensor<1x6xi32>) -> tensor<1x6xi32>
    return %0 : tensor<1x6xi32>
  }
  func.func private @_take(%arg0: tensor<32x8xf32>, %arg1: tensor<6xi32>) -> tensor<6x8xf32> {
    %0 = stablehlo.broadcast_in_dim %arg1, dims = [0] : (tensor<6xi32>) -> tensor<6x1xi32>
    %1 = "stablehlo.gather"(%arg0, %0) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 8>}> : (tensor<32x8xf32>, tensor<6x1xi32>) -> tensor<6x8xf32>
    return %1 : tensor<6x8xf32>
  }
  func.func private @argmax(%arg0: tensor<1x6xf32>) -> tensor<1xi32> {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %cst = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %0 = stablehlo.iota dim = 1 : tensor<1x6xi32>
    %1:2 = stablehlo.reduce(%arg0 init: %cst), (%0 init: %c) across dimensions = [1] : (tensor<1x6xf32>, tensor<1x6xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
     reducer(%arg1: tensor<f32>, %arg3: tensor<f32>) (%arg2: tensor<i32>, %arg4: tensor<i32>)  {
      %2 = stablehlo.compare GT, %arg1, %arg3, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %3 = stablehlo.compare NE, %arg1, %arg1, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %4 = stablehlo.or %2, %3 : tensor<i1>
      %5 = stablehlo.compare EQ, %arg1, %arg3, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %6 = stablehlo.compare LT, %arg2, %arg4, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      %7 = stablehlo.and %5, %6 : tensor<i1>
      %8 = stablehlo.or %4, %7 : tensor<i1>
      %9 = stablehlo.select %4, %arg1, %arg3 : tensor<i1>, tensor<f32>
      %10 = stablehlo.select %8, %arg2, %arg4 : tensor<i1>, tensor<i32>
      stablehlo.return %9, %10 : tensor<f32>, tensor<i32>
    }
    return %1#1 : tensor<1xi32>
  }
  func.func private @take_along_axis(%arg0: tensor<1x6xf32>, %arg1: tensor<1x1xi32>) -> tensor<1x1xf32> {
    %cst = stablehlo.constant dense<0x7FC00000> : tensor<f32>
    %c = stablehlo.constant dense<true> : tensor<i1>
    %c_0 = stablehlo.constant dense<5> : tensor<1xi32>
    %c_1 = stablehlo.constant dense<6> : tensor<i32>
    %c_2 = stablehlo.constant dense<0> : tensor<i32>
    %0 = stablehlo.broadcast_in_dim %c_2, dims = [] : (tensor<i32>) -> tensor<1x1xi32>
    %1 = stablehlo.compare LT, %arg1, %0, SIGNED : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi1>
    %2 = stablehlo.broadcast_in_dim %c_1, dims = [] : (tensor<i32>) -> tensor<1x1xi32>
    %3 = stablehlo.add %arg1, %2 : tensor<1x1xi32>
    %4 = stablehlo.select %1, %3, %arg1 : tensor<1x1xi1>, tensor<1x1xi32>
    %5 = stablehlo.compare GE, %4, %0, SIGNED : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi1>
    %6 = stablehlo.broadcast_in_dim %c_0, dims = [1] : (tensor<1xi32>) -> tensor<1x1xi32>
    %7 = stablehlo.compare LE, %4, %6, SIGNED : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi1>
    %8 = stablehlo.and %5, %7 : tensor<1x1xi1>
    %9 = stablehlo.reduce(%8 init: %c) applies stablehlo.and across dimensions = [1] : (tensor<1x1xi1>, tensor<i1>) -> tensor<1xi1>
    %10 = "stablehlo.gather"(%arg0, %4) <{dimension_numbers = #stablehlo.gather<offset_dims = [0], collapsed_slice_dims = [1], start_index_map = [1], index_vector_dim = 1>, slice_sizes = array<i64: 1, 1>}> : (tensor<1x6xf32>, tensor<1x1xi32>) -> tensor<1x1xf32>
    %11 = stablehlo.broadcast_in_dim %9, dims = [1] : (tensor<1xi1>) -> tensor<1x1xi1>
    %12 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<1x1xf32>
    %13 = stablehlo.select %11, %10, %12 : tensor<1x1xi1>, tensor<1x1xf32>
    return %13 : tensor<1x1xf32>
  }
  func.func private @take_along_axis_0(%arg0: tensor<1x6xi32>, %arg1: tensor<1x1xi32>) -> tensor<1x1xi32> {
    %c = stablehlo.constant dense<-2147483648> : tensor<i32>
    %c_0 = stablehlo.constant dense<true> : tensor<i1>
    %c_1 = stablehlo.constant dense<5> : tensor<1xi32>
    %c_2 = stablehlo.constant dense<6> : tensor<i32>
    %c_3 = stablehlo.constant dense<0> : tensor<i32>
    %0 = stablehlo.broadcast_in_dim %c_3, dims = [] : (tensor<i32>) -> tensor<1x1xi32>
    %1 = stablehlo.compare LT, %arg1, %0, SIGNED : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi1>
    %2 = stablehlo.broadcast_in_dim %c_2, dims = [] : (tensor<i32>) -> tensor<1x1xi32>
    %3 = stablehlo.add %arg1, %2 : tensor<1x1xi32>
    %4 = stablehlo.select %1, %3, %arg1 : tensor<1x1xi1>, tensor<1x1xi32>
    %5 = stablehlo.compare GE, %4, %0, SIGNED : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi1>
    %6 = stablehlo.broadcast_in_dim %c_1, dims = [1] : (tensor<1xi32>) -> tensor<1x1xi32>
    %7 = stablehlo.compare LE, %4, %6, SIGNED : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi1>
    %8 = stablehlo.and %5, %7 : tensor<1x1xi1>
    %9 = stablehlo.reduce(%8 init: %c_0) applies stablehlo.and across dimensions = [1] : (tensor<1x1xi1>, tensor<i1>) -> tensor<1xi1>
    %10 = "stablehlo.gather"(%arg0, %4) <{dimension_numbers = #stablehlo.gather<offset_dims = [0], collapsed_slice_dims = [1], start_index_map = [1], index_vector_dim = 1>, slice_sizes = array<i64: 1, 1>}> : (tensor<1x6xi32>, tensor<1x1xi32>) -> tensor<1x1xi32>
    %11 = stablehlo.broadcast_in_dim %9, dims = [1] : (tensor<1xi1>) -> tensor<1x1xi1>
    %12 = stablehlo.broadcast_in_dim %c, dims = [] : (tensor<i32>) -> tensor<1x1xi32>
    %13 = stablehlo.select %11, %10, %12 : tensor<1x1xi1>, tensor<1x1xi32>
    return %13 : tensor<1x1xi32>
  }
}
