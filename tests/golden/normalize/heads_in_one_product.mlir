// Two heads in one product, cut apart by a reshape, become an argmax each of a slice of it, which is a head of its own.
// (Codebooks of speech models are written so.)

// ===== input
func.func public @main(%x: tensor<4x8xf32>, %w: tensor<8x16xf32>) -> (tensor<4x2xf32>, tensor<4x2xi32>) {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32> loc("codebooks/dot_general")
  %1 = stablehlo.reshape %0 : (tensor<4x16xf32>) -> tensor<4x2x8xf32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %at = stablehlo.iota dim = 2 : tensor<4x2x8xi32>
  %2:2 = stablehlo.reduce(%1 init: %low), (%at init: %first) across dimensions = [2] : (tensor<4x2x8xf32>, tensor<4x2x8xi32>, tensor<f32>, tensor<i32>) -> (tensor<4x2xf32>, tensor<4x2xi32>)
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
  return %2#0, %2#1 : tensor<4x2xf32>, tensor<4x2xi32>
}

// ===== report
stablehlo.and: 1 → 2
stablehlo.compare: 3 → 6
stablehlo.concatenate: 0 → 2
stablehlo.or: 1 → 2
stablehlo.reduce: 1 → 2
stablehlo.reshape: 1 → 2
stablehlo.return: 1 → 2
stablehlo.select: 2 → 4
stablehlo.slice: 0 → 2

// ===== output
module {
  func.func public @main(%arg0: tensor<4x8xf32>, %arg1: tensor<8x16xf32>) -> (tensor<4x2xf32>, tensor<4x2xi32>) {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
    %cst = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %1 = stablehlo.slice %0 [0:4, 0:8] : (tensor<4x16xf32>) -> tensor<4x8xf32>
    %2 = stablehlo.reshape %1 : (tensor<4x8xf32>) -> tensor<4x1x8xf32>
    %3 = stablehlo.iota dim = 2 : tensor<4x1x8xi32>
    %4:2 = stablehlo.reduce(%2 init: %cst), (%3 init: %c) across dimensions = [2] : (tensor<4x1x8xf32>, tensor<4x1x8xi32>, tensor<f32>, tensor<i32>) -> (tensor<4x1xf32>, tensor<4x1xi32>)
     reducer { … }
    %5 = stablehlo.slice %0 [0:4, 8:16] : (tensor<4x16xf32>) -> tensor<4x8xf32>
    %6 = stablehlo.reshape %5 : (tensor<4x8xf32>) -> tensor<4x1x8xf32>
    %7:2 = stablehlo.reduce(%6 init: %cst), (%3 init: %c) across dimensions = [2] : (tensor<4x1x8xf32>, tensor<4x1x8xi32>, tensor<f32>, tensor<i32>) -> (tensor<4x1xf32>, tensor<4x1xi32>)
     reducer { … }
    %8 = stablehlo.concatenate %4#0, %7#0, dim = 1 : (tensor<4x1xf32>, tensor<4x1xf32>) -> tensor<4x2xf32>
    %9 = stablehlo.concatenate %4#1, %7#1, dim = 1 : (tensor<4x1xi32>, tensor<4x1xi32>) -> tensor<4x2xi32>
    return %8, %9 : tensor<4x2xf32>, tensor<4x2xi32>
  }
}
