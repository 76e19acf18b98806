// Logits that are filled up to a round number with −inf (as engines do for a sharded vocabulary) have an argmax of two
// parts: the product, and what was filled up. So the product alone is ranked, and the filling can win against nothing.

// ===== input
func.func public @main(%x: tensor<4x8xf32>, %w: tensor<8x16xf32>) -> tensor<4xi32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32> loc("logits/dot_general")
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %1 = stablehlo.pad %0, %low, low = [0, 0], high = [0, 4], interior = [0, 0] : (tensor<4x16xf32>, tensor<f32>) -> tensor<4x20xf32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %at = stablehlo.iota dim = 1 : tensor<4x20xi32>
  %2:2 = stablehlo.reduce(%1 init: %low), (%at init: %first) across dimensions = [1] : (tensor<4x20xf32>, tensor<4x20xi32>, tensor<f32>, tensor<i32>) -> (tensor<4xf32>, tensor<4xi32>)
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
  return %2#1 : tensor<4xi32>
}

// ===== report
stablehlo.add: 0 → 1
stablehlo.and: 1 → 3
stablehlo.broadcast_in_dim: 0 → 1
stablehlo.compare: 3 → 9
stablehlo.constant: 2 → 3
stablehlo.iota: 1 → 2
stablehlo.or: 1 → 3
stablehlo.pad: 1 → 0
stablehlo.reduce: 1 → 2
stablehlo.return: 1 → 2
stablehlo.select: 2 → 5

// ===== output
module {
  func.func public @main(%arg0: tensor<4x8xf32>, %arg1: tensor<8x16xf32>) -> tensor<4xi32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
    %cst = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %1 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<4x4xf32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %2 = stablehlo.iota dim = 1 : tensor<4x16xi32>
    %3:2 = stablehlo.reduce(%0 init: %cst), (%2 init: %c) across dimensions = [1] : (tensor<4x16xf32>, tensor<4x16xi32>, tensor<f32>, tensor<i32>) -> (tensor<4xf32>, tensor<4xi32>)
     reducer { … }
    %4 = stablehlo.iota dim = 1 : tensor<4x4xi32>
    %5:2 = stablehlo.reduce(%1 init: %cst), (%4 init: %c) across dimensions = [1] : (tensor<4x4xf32>, tensor<4x4xi32>, tensor<f32>, tensor<i32>) -> (tensor<4xf32>, tensor<4xi32>)
     reducer { … }
    %c_0 = stablehlo.constant dense<16> : tensor<4xi32>
    %6 = stablehlo.add %5#1, %c_0 : tensor<4xi32>
    %7 = stablehlo.compare GT, %5#0, %3#0, FLOAT : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %8 = stablehlo.compare NE, %5#0, %5#0, FLOAT : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %9 = stablehlo.compare EQ, %3#0, %3#0, FLOAT : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %10 = stablehlo.and %8, %9 : tensor<4xi1>
    %11 = stablehlo.or %7, %10 : tensor<4xi1>
    %12 = stablehlo.select %11, %6, %3#1 : tensor<4xi1>, tensor<4xi32>
    return %12 : tensor<4xi32>
  }
}
