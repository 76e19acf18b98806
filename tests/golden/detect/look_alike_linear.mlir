// Two products with nothing nonlinear between them are one matrix of low rank, not a block.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %1 = stablehlo.dot_general %0, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %1 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     nothing nonlinear stands between the two products (a low-rank
             adapter?)  [mlp/up]
  miss     nothing nonlinear stands between the two products (a low-rank
             adapter?)  [mlp/down]
