// Two heads with weights of their own, whose logits are stacked before one argmax, become an argmax each. Their winners
// are put side by side again.

// ===== input
func.func public @main(%x: tensor<4x8xf32>, %w: tensor<8x16xf32>, %next: tensor<8x16xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>) {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32> loc("heads/now/dot_general")
  %1 = stablehlo.dot_general %x, %next, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32> loc("heads/next/dot_general")
  %2 = stablehlo.reshape %0 : (tensor<4x16xf32>) -> tensor<1x4x16xf32>
  %3 = stablehlo.reshape %1 : (tensor<4x16xf32>) -> tensor<1x4x16xf32>
  %4 = stablehlo.concatenate %2, %3, dim = 0 : (tensor<1x4x16xf32>, tensor<1x4x16xf32>) -> tensor<2x4x16xf32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %at = stablehlo.iota dim = 2 : tensor<2x4x16xi32>
  %5:2 = stablehlo.reduce(%4 init: %low), (%at init: %first) across dimensions = [2] : (tensor<2x4x16xf32>, tensor<2x4x16xi32>, tensor<f32>, tensor<i32>) -> (tensor<2x4xf32>, tensor<2x4xi32>)
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
  return %5#0, %5#1 : tensor<2x4xf32>, tensor<2x4xi32>
}

// ===== report
stablehlo.and: 1 → 2
stablehlo.compare: 3 → 6
stablehlo.concatenate: 1 → 2
stablehlo.or: 1 → 2
stablehlo.reduce: 1 → 2
stablehlo.return: 1 → 2
stablehlo.select: 2 → 4

// ===== output
module {
  func.func public @main(%arg0: tensor<4x8xf32>, %arg1: tensor<8x16xf32>, %arg2: tensor<8x16xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>) {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
    %1 = stablehlo.dot_general %arg0, %arg2, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
    %2 = stablehlo.reshape %0 : (tensor<4x16xf32>) -> tensor<1x4x16xf32>
    %3 = stablehlo.reshape %1 : (tensor<4x16xf32>) -> tensor<1x4x16xf32>
    %cst = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %4 = stablehlo.iota dim = 2 : tensor<1x4x16xi32>
    %5:2 = stablehlo.reduce(%2 init: %cst), (%4 init: %c) across dimensions = [2] : (tensor<1x4x16xf32>, tensor<1x4x16xi32>, tensor<f32>, tensor<i32>) -> (tensor<1x4xf32>, tensor<1x4xi32>)
     reducer { … }
    %6:2 = stablehlo.reduce(%3 init: %cst), (%4 init: %c) across dimensions = [2] : (tensor<1x4x16xf32>, tensor<1x4x16xi32>, tensor<f32>, tensor<i32>) -> (tensor<1x4xf32>, tensor<1x4xi32>)
     reducer { … }
    %7 = stablehlo.concatenate %5#0, %6#0, dim = 0 : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<2x4xf32>
    %8 = stablehlo.concatenate %5#1, %6#1, dim = 0 : (tensor<1x4xi32>, tensor<1x4xi32>) -> tensor<2x4xi32>
    return %7, %8 : tensor<2x4xf32>, tensor<2x4xi32>
  }
}
