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
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.6 kB read a call
  on?      head/0: argmax 8→32 float32 batch 1
             Quantized(bits=8), 6 of 32 rows exact; 1.0 kB → 0.6 kB read a call,
               0.4 kB added
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
  fast?    not measured: hire.compare(step, …) says it
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
  func.func private @chlo.top_k.impl(%arg0: tensor<1x32xf32>) -> (tensor<1x6xf32>, tensor<1x6xi32>) { … }
  func.func private @sort(%arg0: tensor<1x6xi32>) -> tensor<1x6xi32> { … }
  func.func private @_take(%arg0: tensor<32x8xf32>, %arg1: tensor<6xi32>) -> tensor<6x8xf32> { … }
  func.func private @argmax(%arg0: tensor<1x6xf32>) -> tensor<1xi32> { … }
  func.func private @take_along_axis(%arg0: tensor<1x6xf32>, %arg1: tensor<1x1xi32>) -> tensor<1x1xf32> { … }
  func.func private @take_along_axis_0(%arg0: tensor<1x6xi32>, %arg1: tensor<1x1xi32>) -> tensor<1x1xi32> { … }
}
