// JAX's private functions (relu, silu, softmax, and those that they call) are inlined into @main. The detector sees
// one straight line of operations.

// ===== input
func.func public @main(%x: tensor<2x4xf32>, %gate: tensor<4x6xf32>, %up: tensor<4x6xf32>, %down: tensor<6x4xf32>) -> tensor<2x4xf32> {
  %0 = stablehlo.dot_general %x, %gate, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
  %1 = func.call @silu(%0) : (tensor<2x6xf32>) -> tensor<2x6xf32>
  %2 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
  %3 = stablehlo.multiply %1, %2 : tensor<2x6xf32>
  %4 = stablehlo.dot_general %3, %down, contracting_dims = [1] x [0] : (tensor<2x6xf32>, tensor<6x4xf32>) -> tensor<2x4xf32>
  return %4 : tensor<2x4xf32>
}
func.func private @silu(%x: tensor<2x6xf32>) -> tensor<2x6xf32> {
  %0 = func.call @sigmoid(%x) : (tensor<2x6xf32>) -> tensor<2x6xf32>
  %1 = stablehlo.multiply %x, %0 : tensor<2x6xf32>
  return %1 : tensor<2x6xf32>
}
func.func private @sigmoid(%x: tensor<2x6xf32>) -> tensor<2x6xf32> {
  %0 = stablehlo.logistic %x : tensor<2x6xf32>
  return %0 : tensor<2x6xf32>
}

// ===== report
func.call: 2 → 0
func.func: 3 → 1
func.return: 3 → 1

// ===== output
module {
  func.func public @main(%arg0: tensor<2x4xf32>, %arg1: tensor<4x6xf32>, %arg2: tensor<4x6xf32>, %arg3: tensor<6x4xf32>) -> tensor<2x4xf32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
    %1 = stablehlo.logistic %0 : tensor<2x6xf32>
    %2 = stablehlo.multiply %0, %1 : tensor<2x6xf32>
    %3 = stablehlo.dot_general %arg0, %arg2, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
    %4 = stablehlo.multiply %2, %3 : tensor<2x6xf32>
    %5 = stablehlo.dot_general %4, %arg3, contracting_dims = [1] x [0] : (tensor<2x6xf32>, tensor<6x4xf32>) -> tensor<2x4xf32>
    return %5 : tensor<2x4xf32>
  }
}
