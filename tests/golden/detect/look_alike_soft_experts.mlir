// A soft mixture weighs every expert by a softmax: no weight is zero, so no expert can be left out.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %router: tensor<8x4xf32>, %up: tensor<4x8x32xf32>, %down: tensor<4x32x8xf32>) -> tensor<1x8xf32> {
  %score = stablehlo.dot_general %x, %router, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x4xf32>) -> tensor<1x4xf32> loc("moe/router/dot_general")
  %e = stablehlo.exponential %score : tensor<1x4xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %sum = stablehlo.reduce(%e init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<1x4xf32>, tensor<f32>) -> tensor<1xf32>
  %all = stablehlo.broadcast_in_dim %sum, dims = [0] : (tensor<1xf32>) -> tensor<1x4xf32>
  %weights = stablehlo.divide %e, %all : tensor<1x4xf32>
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<4x8x32xf32>) -> tensor<1x4x32xf32> loc("moe/up/dot_general")
  %1 = stablehlo.logistic %0 : tensor<1x4x32xf32>
  %2 = stablehlo.multiply %0, %1 : tensor<1x4x32xf32>
  %3 = stablehlo.dot_general %2, %down, batching_dims = [1] x [0], contracting_dims = [2] x [1] : (tensor<1x4x32xf32>, tensor<4x32x8xf32>) -> tensor<4x1x8xf32> loc("moe/down/dot_general")
  %4 = stablehlo.dot_general %weights, %3, batching_dims = [0] x [1], contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x1x8xf32>) -> tensor<1x8xf32> loc("moe/sum/dot_general")
  return %4 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 3 misses
  miss     a soft mixture of 4 experts: none of their weights is known to be
             zero, so all of them count  [moe/router]
  miss     a soft mixture of 4 experts: none of their weights is known to be
             zero, so all of them count  [moe/up]
  miss     a soft mixture of 4 experts: none of their weights is known to be
             zero, so all of them count  [moe/down]
