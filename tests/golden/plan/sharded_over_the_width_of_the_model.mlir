// Weights that lie split over the model's width (FSDP) are gathered by every device in each call, so a shard cannot
// work by itself, and the block stays dense.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x64xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}, %down: tensor<64x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}) -> tensor<1x8xf32> {
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
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→64 float32 batch 1
             left dense: sharded over 8 devices: its weights are split over the
               model's width (FSDP?), so every device has to gather them, as the
               program does
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→64: dense, sharded over 8 devices: its weights are split over the model's width (FSDP?), so every device has to gather them, as the program does
