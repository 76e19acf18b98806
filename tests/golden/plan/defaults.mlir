// Without rules only what is provably exact is planned. The winner of the head would be certified, if that saved
// anything at this size; the silu block, of which no neuron is exactly zero, stays dense.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %gate: tensor<8x32xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>, %embed: tensor<32x8xf32>) -> tensor<1xi32> {
  %0 = stablehlo.dot_general %x, %gate, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("layer_0/gate/dot_general")
  %1 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("layer_0/up/dot_general")
  %2 = stablehlo.logistic %0 : tensor<1x32xf32>
  %3 = stablehlo.multiply %0, %2 : tensor<1x32xf32>
  %4 = stablehlo.multiply %3, %1 : tensor<1x32xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("layer_0/down/dot_general")
  %z = stablehlo.dot_general %5, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %ids = stablehlo.iota dim = 1 : tensor<1x32xi32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %token:2 = stablehlo.reduce(%z init: %low), (%ids init: %first) across dimensions = [1] : (tensor<1x32xf32>, tensor<1x32xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %gt = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %eq = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %lt = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %tie = stablehlo.and %eq, %lt : tensor<i1>
    %wins = stablehlo.or %gt, %tie : tensor<i1>
    %c = stablehlo.select %gt, %a, %b : tensor<i1>, tensor<f32>
    %k = stablehlo.select %wins, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %c, %k : tensor<f32>, tensor<i32>
  }
  return %token#1 : tensor<1xi32>
}

// ===== config
Config()

// ===== report
hire_compiler: off: 2 sites, none rewritten
  why not? ffn/0: gated silu 8→32 float32 batch 1
             left dense: silu is not sparse (no neuron is exactly zero), and no
               rule asks to approximate it
           head/0: argmax 8→32 float32 batch 1
             left dense: no rule selects it, and nothing approximate is done
               unasked
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [layer_0/down] 8→32: dense, silu is not sparse (no neuron is exactly zero), and no rule asks to approximate it
cpu: head/0 [logits] 8→32: dense, no rule selects it, and nothing approximate is done unasked
