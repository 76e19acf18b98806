// Factors that rest on three rows of text are made as asked, but a note says that these are too few for inputs of eight
// numbers.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=1),))

// ===== calibration
Calibration(moments={"arg1[8]": Moment(eye(8) * 3, 3)})

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 0.6 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             LowRank(rank=1, bfloat16), 8 of 32 rows exact; 2.0 kB → 0.6 kB read
               a call, 1.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: LowRank(rank=1, bfloat16) rests on 3 rows of calibration, too
             few for inputs of 8 numbers: 1000 rows or more of ordinary inputs
             are a good start

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: LowRank(rank=1, bfloat16), candidates=8, group=1
