// Gate and up that come from one weight of 2·ff rows, cut by slices after the product (as many bf16 checkpoints
// store them), are one gated site. Its down projection stores its rows the other way round.

// ===== input
func.func public @main(%x: tensor<1x8xbf16>, %gate_up: tensor<64x8xbf16>, %down: tensor<8x32xbf16>) -> tensor<1x8xbf16> {
  %0 = stablehlo.dot_general %x, %gate_up, contracting_dims = [1] x [1] : (tensor<1x8xbf16>, tensor<64x8xbf16>) -> tensor<1x64xbf16> loc("layer_3/mlp/gate_up/dot_general")
  %1 = stablehlo.slice %0 [0:1, 0:32] : (tensor<1x64xbf16>) -> tensor<1x32xbf16>
  %2 = stablehlo.slice %0 [0:1, 32:64] : (tensor<1x64xbf16>) -> tensor<1x32xbf16>
  %3 = stablehlo.logistic %1 : tensor<1x32xbf16>
  %4 = stablehlo.multiply %1, %3 : tensor<1x32xbf16>
  %5 = stablehlo.multiply %4, %2 : tensor<1x32xbf16>
  %6 = stablehlo.dot_general %5, %down, contracting_dims = [1] x [1] : (tensor<1x32xbf16>, tensor<8x32xbf16>) -> tensor<1x8xbf16> loc("layer_3/mlp/down/dot_general")
  return %6 : tensor<1x8xbf16>
}

// ===== report
hire_compiler: 1 site, 0 misses
  ffn      gated silu 8→32 bfloat16 batch 1  [layer_3/mlp/down]
