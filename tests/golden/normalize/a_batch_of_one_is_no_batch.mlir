// A product that is batched over a dimension of one element (vmap over one expert, stage or pod) is a plain product:
// the dimension is contracted with the others.

// ===== input
func.func public @main(%x: tensor<1x2x4xf32>, %w: tensor<1x4x8xf32>) -> tensor<1x2x8xf32> {
  %0 = stablehlo.dot_general %x, %w, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<1x2x4xf32>, tensor<1x4x8xf32>) -> tensor<1x2x8xf32> loc("expert/up/dot_general")
  return %0 : tensor<1x2x8xf32>
}

// ===== report
stablehlo.reshape: 0 → 1

// ===== output
module {
  func.func public @main(%arg0: tensor<1x2x4xf32>, %arg1: tensor<1x4x8xf32>) -> tensor<1x2x8xf32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [0, 2] x [0, 1] : (tensor<1x2x4xf32>, tensor<1x4x8xf32>) -> tensor<2x8xf32>
    %1 = stablehlo.reshape %0 : (tensor<2x8xf32>) -> tensor<1x2x8xf32>
    return %1 : tensor<1x2x8xf32>
  }
}
