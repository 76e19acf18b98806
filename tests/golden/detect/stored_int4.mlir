// Weights of four bits, with a scale for every eight inputs of a neuron, are a site as int8 ones are.

// ===== input
func.func public @main(%x: tensor<1x16xf32>, %up: tensor<32x16xi4>, %up_scale: tensor<32x2xf32>, %down: tensor<32x16xi4>, %down_scale: tensor<32x2xf32>) -> tensor<1x16xf32> {
  %0 = stablehlo.convert %up : (tensor<32x16xi4>) -> tensor<32x16xf32>
  %1 = stablehlo.reshape %0 : (tensor<32x16xf32>) -> tensor<32x2x8xf32>
  %2 = stablehlo.broadcast_in_dim %up_scale, dims = [0, 1] : (tensor<32x2xf32>) -> tensor<32x2x8xf32>
  %3 = stablehlo.multiply %1, %2 : tensor<32x2x8xf32>
  %w = stablehlo.reshape %3 : (tensor<32x2x8xf32>) -> tensor<32x16xf32>
  %4 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<1x16xf32>, tensor<32x16xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %5 = stablehlo.maximum %4, %zero : tensor<1x32xf32>
  %6 = stablehlo.convert %down : (tensor<32x16xi4>) -> tensor<32x16xf32>
  %7 = stablehlo.reshape %6 : (tensor<32x16xf32>) -> tensor<32x2x8xf32>
  %8 = stablehlo.broadcast_in_dim %down_scale, dims = [0, 1] : (tensor<32x2xf32>) -> tensor<32x2x8xf32>
  %9 = stablehlo.multiply %7, %8 : tensor<32x2x8xf32>
  %v = stablehlo.reshape %9 : (tensor<32x2x8xf32>) -> tensor<32x16xf32>
  %10 = stablehlo.dot_general %5, %v, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x16xf32>) -> tensor<1x16xf32> loc("mlp/down/dot_general")
  return %10 : tensor<1x16xf32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  ffn      relu 16→32 int4 as float32 batch 1  [mlp/down]
