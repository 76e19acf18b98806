// An untied head in bf16 is a site, although its logits are widened to float32 before top_k reads them.

// ===== input
func.func public @main(%x: tensor<1x8xbf16>, %head: tensor<8x128xbf16>) -> (tensor<1x4xf32>, tensor<1x4xi32>) {
  %0 = stablehlo.dot_general %x, %head, contracting_dims = [1] x [0] : (tensor<1x8xbf16>, tensor<8x128xbf16>) -> tensor<1x128xbf16> loc("lm_head/dot_general")
  %1 = stablehlo.convert %0 : (tensor<1x128xbf16>) -> tensor<1x128xf32>
  %values, %indices = chlo.top_k(%1, k = 4) : tensor<1x128xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  return %values, %indices : tensor<1x4xf32>, tensor<1x4xi32>
}

// ===== report
hire_compiler: 1 site, 0 misses
  head     top_k 8→128 bfloat16 batch 1  [lm_head]
