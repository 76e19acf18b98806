// A chain that nothing reads disappears as a whole, and what was computed twice is computed once. A product that
// stayed behind dead would keep its weight alive as an argument of the step.

// ===== input
func.func public @main(%x: tensor<2x4xf32>, %w: tensor<4x6xf32>, %unread: tensor<6x4xf32>) -> tensor<2x6xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
  %1 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
  %2 = stablehlo.add %0, %1 : tensor<2x6xf32>
  %3 = stablehlo.exponential %1 : tensor<2x6xf32>
  %4 = stablehlo.dot_general %3, %unread, contracting_dims = [1] x [0] : (tensor<2x6xf32>, tensor<6x4xf32>) -> tensor<2x4xf32>
  %5 = stablehlo.tanh %4 : tensor<2x4xf32>
  %6 = stablehlo.negate %5 : tensor<2x4xf32>
  return %2 : tensor<2x6xf32>
}

// ===== report
stablehlo.dot_general: 3 → 1
stablehlo.exponential: 1 → 0
stablehlo.negate: 1 → 0
stablehlo.tanh: 1 → 0

// ===== output
module {
  func.func public @main(%arg0: tensor<2x4xf32>, %arg1: tensor<4x6xf32>, %arg2: tensor<6x4xf32>) -> tensor<2x6xf32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
    %1 = stablehlo.add %0, %0 : tensor<2x6xf32>
    return %1 : tensor<2x6xf32>
  }
}
