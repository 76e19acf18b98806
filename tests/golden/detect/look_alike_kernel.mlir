// What a kernel computes from a weight cannot be seen, so it is said that one reads it.

// ===== input
func.func public @main(%x: tensor<1x128xf32>, %w: tensor<128x128xf32>) -> tensor<1x128xf32> {
  %0 = stablehlo.custom_call @tpu_custom_call(%x, %w) : (tensor<1x128xf32>, tensor<128x128xf32>) -> tensor<1x128xf32> loc("mlp/kernel")
  return %0 : tensor<1x128xf32>
}

// ===== report
hire_compiler: 0 sites, 1 miss
  miss     a custom call (tpu_custom_call) reads it: what that computes cannot
             be seen  [mlp]
