// A tied head (the embedding, transposed) whose softcapped logits only an argmax reads is a site. The reducer is
// JAX's own: ties go to the lowest index, NaN wins.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %embed: tensor<128x8xf32>) -> tensor<2xi32> {
  %0 = stablehlo.transpose %embed, dims = [1, 0] : (tensor<128x8xf32>) -> tensor<8x128xf32>
  %1 = stablehlo.dot_general %x, %0, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x128xf32>) -> tensor<2x128xf32> loc("decoder/logits/dot_general")
  %cap = stablehlo.constant dense<30.0> : tensor<2x128xf32>
  %2 = stablehlo.divide %1, %cap : tensor<2x128xf32>
  %3 = stablehlo.tanh %2 : tensor<2x128xf32>
  %4 = stablehlo.multiply %3, %cap : tensor<2x128xf32>
  %5 = func.call @argmax(%4) : (tensor<2x128xf32>) -> tensor<2xi32>
  return %5 : tensor<2xi32>
}
func.func private @argmax(%x: tensor<2x128xf32>) -> tensor<2xi32> {
  %0 = stablehlo.iota dim = 1 : tensor<2x128xi32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %1:2 = stablehlo.reduce(%x init: %low), (%0 init: %zero) across dimensions = [1] : (tensor<2x128xf32>, tensor<2x128xi32>, tensor<f32>, tensor<i32>) -> (tensor<2xf32>, tensor<2xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %2 = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %3 = stablehlo.compare NE, %a, %a, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %4 = stablehlo.or %2, %3 : tensor<i1>
    %5 = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %6 = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %7 = stablehlo.and %5, %6 : tensor<i1>
    %8 = stablehlo.or %4, %7 : tensor<i1>
    %9 = stablehlo.select %4, %a, %b : tensor<i1>, tensor<f32>
    %10 = stablehlo.select %8, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %9, %10 : tensor<f32>, tensor<i32>
  }
  return %1#1 : tensor<2xi32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  head     argmax 8→128 float32 batch 2  [decoder/logits]
