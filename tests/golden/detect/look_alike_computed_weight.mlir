// A weight that is computed in every call (here a sum of two) is no parameter: it cannot be prepared once, so the
// block is no site. The reason names the operation that computes it.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %up: tensor<8x32xf32>, %update: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<2x8xf32> {
  %h = stablehlo.tanh %x : tensor<2x8xf32>
  %w = stablehlo.add %up, %update : tensor<8x32xf32>
  %0 = stablehlo.dot_general %h, %w, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x32xf32>) -> tensor<2x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<2x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<2x32xf32>, tensor<32x8xf32>) -> tensor<2x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<2x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     its weight is no parameter as it stands: it is computed (add), not a
             parameter  [mlp/up]
  miss     in the product before it, arg1 is no parameter: it is computed (add),
             not a parameter  [mlp/down]
