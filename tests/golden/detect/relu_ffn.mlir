// The plainest feed-forward block (up, relu in its private function, down) is a site.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<2x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x32xf32>) -> tensor<2x32xf32> loc("decoder/layer_0/mlp/up/dot_general")
  %1 = func.call @relu(%0) : (tensor<2x32xf32>) -> tensor<2x32xf32> loc("decoder/layer_0/mlp/relu")
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<2x32xf32>, tensor<32x8xf32>) -> tensor<2x8xf32> loc("decoder/layer_0/mlp/down/dot_general")
  return %2 : tensor<2x8xf32>
}
func.func private @relu(%x: tensor<2x32xf32>) -> tensor<2x32xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.broadcast_in_dim %zero, dims = [] : (tensor<f32>) -> tensor<2x32xf32>
  %1 = stablehlo.maximum %x, %0 : tensor<2x32xf32>
  return %1 : tensor<2x32xf32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  ffn      relu 8→32 float32 batch 2  [decoder/layer_0/mlp/down]
