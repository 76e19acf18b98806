// Three heads that lie in one array (Medusa, codebooks) are one product and one site with three winners: the program chooses
// among the rows of each head alone.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %heads: tensor<3x1024x8xf32>) -> tensor<1x3xi32> {
  %0 = stablehlo.dot_general %x, %heads, contracting_dims = [1] x [2] : (tensor<1x8xf32>, tensor<3x1024x8xf32>) -> tensor<1x3x1024xf32> loc("medusa/logits/dot_general")
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %at = stablehlo.iota dim = 2 : tensor<1x3x1024xi32>
  %1:2 = stablehlo.reduce(%0 init: %low), (%at init: %first) across dimensions = [2] : (tensor<1x3x1024xf32>, tensor<1x3x1024xi32>, tensor<f32>, tensor<i32>) -> (tensor<1x3xf32>, tensor<1x3xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %c = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %d = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %e = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %f = stablehlo.and %d, %e : tensor<i1>
    %g = stablehlo.or %c, %f : tensor<i1>
    %h = stablehlo.select %c, %a, %b : tensor<i1>, tensor<f32>
    %k = stablehlo.select %g, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %h, %k : tensor<f32>, tensor<i32>
  }
  return %1#1 : tensor<1x3xi32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  head     argmax 8→3072 float32 batch 1  [medusa/logits]
