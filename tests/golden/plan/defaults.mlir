// Without rules only what is provably exact is planned: the winner of the head is certified, and the silu block, of
// which no neuron is exactly zero, stays dense.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %gate: tensor<8x32xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>, %embed: tensor<4096x8xf32>) -> tensor<1x1xi32> {
  %0 = stablehlo.dot_general %x, %gate, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("layer_0/gate/dot_general")
  %1 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("layer_0/up/dot_general")
  %2 = stablehlo.logistic %0 : tensor<1x32xf32>
  %3 = stablehlo.multiply %0, %2 : tensor<1x32xf32>
  %4 = stablehlo.multiply %3, %1 : tensor<1x32xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("layer_0/down/dot_general")
  %z = stablehlo.dot_general %5, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<4096x8xf32>) -> tensor<1x4096xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 1) : tensor<1x4096xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  return %ids : tensor<1x1xi32>
}

// ===== config
Config()

// ===== report
hire_compiler: on, 1 of 2 sites rewritten, 0.1 MB → 72.7 kB read a call
  on?      head/0: top_k 8→4096 float32 batch 1
             Quantized(bits=8), 128 of 4096 rows exact; 0.1 MB → 69.6 kB read a
               call, 90.1 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
  why not? ffn/0: gated silu 8→32 float32 batch 1
             left dense: silu is not sparse (no neuron is exactly zero), and no
               rule asks to approximate it

// ===== plan
cpu: ffn/0 [layer_0/down] 8→32: dense, silu is not sparse (no neuron is exactly zero), and no rule asks to approximate it
cpu: head/0 [logits] 8→4096: Quantized(bits=8), candidates=128, group=1, certify=strict
