// A dimension that was exported by name (here the batch, "b") gets its size from the types of a call: every shape that
// follows from it becomes a number, and the code that computed shapes goes.

// ===== input
func.func public @main(%x: tensor<?x8xf32>, %up: tensor<8x32xf32>) -> tensor<?x32xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<?x8xf32>, tensor<8x32xf32>) -> tensor<?x32xf32>
  %b = stablehlo.get_dimension_size %x, dim = 0 : (tensor<?x8xf32>) -> tensor<i32>
  %rows = stablehlo.reshape %b : (tensor<i32>) -> tensor<1xi32>
  %columns = stablehlo.constant dense<32> : tensor<1xi32>
  %shape = stablehlo.concatenate %rows, %columns, dim = 0 : (tensor<1xi32>, tensor<1xi32>) -> tensor<2xi32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %zeros = stablehlo.dynamic_broadcast_in_dim %zero, %shape, dims = [] : (tensor<f32>, tensor<2xi32>) -> tensor<?x32xf32>
  %1 = stablehlo.maximum %0, %zeros : tensor<?x32xf32>
  return %1 : tensor<?x32xf32>
}

// ===== types
2x8xf32
8x32xf32

// ===== report
stablehlo.broadcast_in_dim: 0 → 1
stablehlo.concatenate: 1 → 0
stablehlo.constant: 2 → 1
stablehlo.dynamic_broadcast_in_dim: 1 → 0
stablehlo.get_dimension_size: 1 → 0
stablehlo.reshape: 1 → 0
constants that are arguments now: 0

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<8x32xf32>) -> tensor<2x32xf32> {
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x32xf32>) -> tensor<2x32xf32>
    %1 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<2x32xf32>
    %2 = stablehlo.maximum %0, %1 : tensor<2x32xf32>
    return %2 : tensor<2x32xf32>
  }
}
