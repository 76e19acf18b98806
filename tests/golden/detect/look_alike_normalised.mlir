// A normalisation between the two products of a block needs all neurons, so none can be left out.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %none = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %none : tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %2 = stablehlo.reduce(%1 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<1x32xf32>, tensor<f32>) -> tensor<1xf32> loc("mlp/norm/reduce_sum")
  %3 = stablehlo.broadcast_in_dim %2, dims = [0] : (tensor<1xf32>) -> tensor<1x32xf32>
  %4 = stablehlo.divide %1, %3 : tensor<1x32xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %5 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     a sum or an extreme of the row enters between the two products (a
             normalisation?)  [mlp/up]
  miss     a sum or an extreme of the row enters between the two products (a
             normalisation?)  [mlp/down]
