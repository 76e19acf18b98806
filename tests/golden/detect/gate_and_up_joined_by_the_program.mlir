// A program that joins gate and up into one matrix in every call, multiplies once and cuts the result apart (as some
// engines do) is read through the joint: it is a gated block of three matrices.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %gate: tensor<8x32xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %w = stablehlo.concatenate %gate, %up, dim = 1 : (tensor<8x32xf32>, tensor<8x32xf32>) -> tensor<8x64xf32>
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x64xf32>) -> tensor<1x64xf32> loc("mlp/gate_up/dot_general")
  %g = stablehlo.slice %0 [0:1, 0:32] : (tensor<1x64xf32>) -> tensor<1x32xf32>
  %u = stablehlo.slice %0 [0:1, 32:64] : (tensor<1x64xf32>) -> tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %r = stablehlo.maximum %g, %zero : tensor<1x32xf32>
  %h = stablehlo.multiply %r, %u : tensor<1x32xf32>
  %1 = stablehlo.dot_general %h, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %1 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  ffn      gated relu 8→32 float32 batch 1  [mlp/down]
