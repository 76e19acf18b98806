// A block with more rows of input than the rule's max_batch (16) stays dense: in a prefill every weight is read once
// for all rows, and little is left to save.

// ===== input
func.func public @main(%x: tensor<24x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<24x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x32xf32>) -> tensor<24x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<24x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<24x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<24x32xf32>, tensor<32x8xf32>) -> tensor<24x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<24x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=2), density=0.25),))

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→32 float32 batch 24
             left dense: its batch of 24 rows is more than the max_batch 16 of
               rule 0
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: dense, its batch of 24 rows is more than the max_batch 16 of rule 0
