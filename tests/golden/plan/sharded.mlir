// Eight devices: the numbers of a rule are those of the whole program, and each shard keeps so many of its own rows
// that the wanted share of the best is expected among them. The report gives the closed form; bytes are those of one
// device.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x64xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}, %down: tensor<64x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x64xf32>) -> tensor<1x64xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x64xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x64xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x64xf32>, tensor<64x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=1),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.5 kB → 0.4 kB read a call
  on?      ffn/0: relu 8→64 float32 batch 1
             LowRank(rank=1, bfloat16), 40 of 64 rows exact; 0.5 kB → 0.4 kB
               read a call, 0.3 kB added; 8 shards choose 5 rows each, expected
               to hold 99.89% of the best; bytes are one device's
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)

// ===== plan
cpu: ffn/0 [mlp/down] 8→64: LowRank(rank=1, bfloat16), candidates=5, group=1
