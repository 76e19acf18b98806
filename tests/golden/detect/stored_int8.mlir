// A block whose weights are int8 with a scale for each neuron is a site; the report says what is stored and what is
// computed.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<32x8xi8>, %up_scale: tensor<32xf32>, %down: tensor<32x8xi8>, %down_scale: tensor<32xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.convert %up : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %1 = stablehlo.broadcast_in_dim %up_scale, dims = [0] : (tensor<32xf32>) -> tensor<32x8xf32>
  %w = stablehlo.multiply %0, %1 : tensor<32x8xf32>
  %2 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %3 = stablehlo.maximum %2, %zero : tensor<1x32xf32>
  %5 = stablehlo.convert %down : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %6 = stablehlo.broadcast_in_dim %down_scale, dims = [0] : (tensor<32xf32>) -> tensor<32x8xf32>
  %v = stablehlo.multiply %5, %6 : tensor<32x8xf32>
  %4 = stablehlo.dot_general %3, %v, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %4 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  ffn      relu 8→32 int8 as float32 batch 1  [mlp/down]
