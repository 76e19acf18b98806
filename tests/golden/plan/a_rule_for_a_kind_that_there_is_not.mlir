// A rule without a path that selects nothing is no error, for a configuration may serve several models; a note says that it
// is idle. A rule that says dense=True leaves its site alone.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8), Rule(kind="ffn", dense=True)))

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→32 float32 batch 1
             left dense: rule 1 says so
  note     rule 0 (kind='head', path='') matched nothing: there is no head site
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: dense, rule 1 says so
