// recall= asks for a share of the active neurons. A calibration tried the predictor at eleven shares: the smallest one that
// was enough (here 3/16 of the neurons) is taken.

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
Calibration(moments={"arg1[8]": Moment(eye(8) * 1000, 1000)}, trials={"arg1|transpose(1, 0)|LowRank(rank=1, bfloat16), groups of 2, max": tried(0.2, 0.3, 0.4, 0.6, 0.8, 0.9, 0.96, 0.99, 1, 1, 1)})

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 0.5 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             LowRank(rank=1, bfloat16), 6 of 32 rows exact in groups of 2; 2.0
               kB → 0.5 kB read a call, 1.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero;
             measured on calibration rows: recall 96.00%, output off by 4.00%

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: LowRank(rank=1, bfloat16), candidates=6, group=2
