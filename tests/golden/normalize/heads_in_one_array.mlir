// Two heads that are stored in one array of rank three become one product with one dimension of rows, which is cut apart.
// (Heads for tokens ahead are written so, as an einsum; a vocabulary that is stored in parts loses its reshape.)

// ===== input
func.func public @main(%x: tensor<4x8xf32>, %w: tensor<2x8x8xf32>) -> (tensor<4x2xf32>, tensor<4x2xi32>) {
  %0 = stablehlo.dot_general %w, %x, contracting_dims = [2] x [1] : (tensor<2x8x8xf32>, tensor<4x8xf32>) -> tensor<2x8x4xf32> loc("heads/dot_general")
  %1 = stablehlo.transpose %0, dims = [2, 0, 1] : (tensor<2x8x4xf32>) -> tensor<4x2x8xf32>
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
stablehlo.reshape: 0 → 3
stablehlo.return: 1 → 2
stablehlo.select: 2 → 4
stablehlo.slice: 0 → 2

// ===== output
module {
  func.func public @main(%arg0: tensor<4x8xf32>, %arg1: tensor<2x8x8xf32>) -> (tensor<4x2xf32>, tensor<4x2xi32>) {
    %0 = stablehlo.reshape %arg1 : (tensor<2x8x8xf32>) -> tensor<16x8xf32>
    %1 = stablehlo.dot_general %0, %arg0, contracting_dims = [1] x [1] : (tensor<16x8xf32>, tensor<4x8xf32>) -> tensor<16x4xf32>
    %2 = stablehlo.transpose %1, dims = [1, 0] : (tensor<16x4xf32>) -> tensor<4x16xf32>
    %cst = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %3 = stablehlo.slice %2 [0:4, 0:8] : (tensor<4x16xf32>) -> tensor<4x8xf32>
    %4 = stablehlo.reshape %3 : (tensor<4x8xf32>) -> tensor<4x1x8xf32>
    %5 = stablehlo.iota dim = 2 : tensor<4x1x8xi32>
    %6:2 = stablehlo.reduce(%4 init: %cst), (%5 init: %c) across dimensions = [2] : (tensor<4x1x8xf32>, tensor<4x1x8xi32>, tensor<f32>, tensor<i32>) -> (tensor<4x1xf32>, tensor<4x1xi32>)
     reducer { … }
    %7 = stablehlo.slice %2 [0:4, 8:16] : (tensor<4x16xf32>) -> tensor<4x8xf32>
    %8 = stablehlo.reshape %7 : (tensor<4x8xf32>) -> tensor<4x1x8xf32>
    %9:2 = stablehlo.reduce(%8 init: %cst), (%5 init: %c) across dimensions = [2] : (tensor<4x1x8xf32>, tensor<4x1x8xi32>, tensor<f32>, tensor<i32>) -> (tensor<4x1xf32>, tensor<4x1xi32>)
     reducer { … }
    %10 = stablehlo.concatenate %6#0, %9#0, dim = 1 : (tensor<4x1xf32>, tensor<4x1xf32>) -> tensor<4x2xf32>
    %11 = stablehlo.concatenate %6#1, %9#1, dim = 1 : (tensor<4x1xi32>, tensor<4x1xi32>) -> tensor<4x2xi32>
    return %10, %11 : tensor<4x2xf32>, tensor<4x2xi32>
  }
}
