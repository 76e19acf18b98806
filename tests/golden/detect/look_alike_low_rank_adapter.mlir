// Two products with nothing nonlinear between them, narrower in the middle than at the ends, are a LoRA adapter.
// Nothing of it is sparse, and it is no feed-forward block however wide it is.

// ===== input
func.func public @main(%x: tensor<2x16xf32>, %a: tensor<16x4xf32>, %b: tensor<4x16xf32>) -> tensor<2x16xf32> {
  %h = stablehlo.tanh %x : tensor<2x16xf32>
  %0 = stablehlo.dot_general %h, %a, contracting_dims = [1] x [0] : (tensor<2x16xf32>, tensor<16x4xf32>) -> tensor<2x4xf32> loc("layer_0/q_proj/lora_a/dot_general")
  %scale = stablehlo.constant dense<2.0> : tensor<2x4xf32>
  %1 = stablehlo.multiply %0, %scale : tensor<2x4xf32>
  %2 = stablehlo.dot_general %1, %b, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x16xf32>) -> tensor<2x16xf32> loc("layer_0/q_proj/lora_b/dot_general")
  return %2 : tensor<2x16xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     nothing nonlinear stands between the two products (a low-rank
             adapter?)  [layer_0/q_proj/lora_a]
  miss     nothing nonlinear stands between the two products (a low-rank
             adapter?)  [layer_0/q_proj/lora_b]
