// An export for two platforms holds code for each, and takes a hidden number that says where it runs: the branch of the
// other platform goes, and the hidden argument with it.

// ===== input
func.func public @main(%platform: tensor<i32> {jax.global_constant = "_platform_index"}, %x: tensor<1x8xf32>, %up: tensor<8x32xf32>) -> tensor<1x32xf32> {
  %0 = "stablehlo.case"(%platform) ({
    %1 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0], precision = [HIGHEST, HIGHEST] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32>
    stablehlo.return %1 : tensor<1x32xf32>
  }, {
    %1 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32>
    stablehlo.return %1 : tensor<1x32xf32>
  }) : (tensor<i32>) -> tensor<1x32xf32>
  return %0 : tensor<1x32xf32>
}

// ===== types
platform: 1
1x8xf32
8x32xf32

// ===== report
stablehlo.case: 1 → 0
stablehlo.constant: 0 → 1
stablehlo.dot_general: 2 → 1
stablehlo.return: 2 → 0
constants that are arguments now: 0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>) -> tensor<1x32xf32> {
    %c = stablehlo.constant dense<1> : tensor<i32>
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32>
    return %0 : tensor<1x32xf32>
  }
}
