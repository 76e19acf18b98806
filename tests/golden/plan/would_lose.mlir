// A rule that would read more bytes than dense does is not obeyed: the report has both numbers.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Quantized(bits=8), density=0.9, group=1),))

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→32 float32 batch 1
             left dense: Quantized(bits=8) with 29 of 32 rows would read 2240
               bytes a call, dense reads 2048: it would lose
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: dense, Quantized(bits=8) with 29 of 32 rows would read 2240 bytes a call, dense reads 2048: it would lose
