// An adapter beside a product (LoRA) is part of the block's code, not a reason to give up: what it adds is computed
// whole, and taken at the chosen neurons.

// ===== input
func.func public @main(%x: tensor<1x16xf32>, %up: tensor<16x64xf32>, %a: tensor<16x2xf32>, %b: tensor<2x64xf32>, %down: tensor<64x16xf32>) -> tensor<1x16xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x64xf32>) -> tensor<1x64xf32> loc("mlp/up/dot_general")
  %1 = stablehlo.dot_general %x, %a, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x2xf32>) -> tensor<1x2xf32> loc("mlp/lora_a/dot_general")
  %2 = stablehlo.dot_general %1, %b, contracting_dims = [1] x [0] : (tensor<1x2xf32>, tensor<2x64xf32>) -> tensor<1x64xf32> loc("mlp/lora_b/dot_general")
  %3 = stablehlo.add %0, %2 : tensor<1x64xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x64xf32>
  %4 = stablehlo.maximum %3, %zero : tensor<1x64xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x64xf32>, tensor<64x16xf32>) -> tensor<1x16xf32> loc("mlp/down/dot_general")
  return %5 : tensor<1x16xf32>
}

// ===== report
hire_compiler: 1 site, 2 misses
  ffn      relu 16→64 float32 batch 1  [mlp/down]
  miss     nothing nonlinear stands between the two products (a low-rank
             adapter?)  [mlp/lora_a]
  miss     a low-rank adapter (rank 2): what it adds is computed whole
             [mlp/lora_b]
