// The predictor found 70 % of the active neurons on calibration rows even with three quarters of them computed, which is
// less than the rule's recall: the block stays dense.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), recall=0.95, group=2),))

// ===== calibration
Calibration(moments={"arg1[8]": Moment(eye(8) * 1000, 1000)}, trials={"arg1|transpose(1, 0)|LowRank(rank=1, bfloat16), groups of 2, max": tried(0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)})

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→32 float32 batch 1
             left dense: the recall of LowRank(rank=1, bfloat16) is 70.00% on
               calibration rows, not the 95.00% asked for, even with 3/4 of the
               neurons
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: dense, the recall of LowRank(rank=1, bfloat16) is 70.00% on calibration rows, not the 95.00% asked for, even with 3/4 of the neurons
