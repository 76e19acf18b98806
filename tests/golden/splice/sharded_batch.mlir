// On a mesh of two axes the batch is split over one and the neurons over the other. Each device chooses for its own
// two rows among its own sixteen neurons; only the partial sums are exchanged, among the four that share rows.

// ===== input
sdy.mesh @mesh = <["data"=2, "model"=4]>
func.func public @main(%x: tensor<4x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>}, %up: tensor<8x64xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}, %down: tensor<64x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<4x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<4x64xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<4x64xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<4x64xf32>, tensor<64x8xf32>) -> tensor<4x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<4x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=1),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.5 kB read a call
  on?      ffn/0: relu 8→64 float32 batch 4
             LowRank(rank=1, bfloat16), 28 of 64 rows exact; 1.0 kB → 0.5 kB
               read a call, 0.6 kB added; 4 shards choose 7 rows each, expected
               to hold 99.65% of the best; bytes are one device's
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg2, and prepared:
  %arg2 is a_rows, from arg1, arg2
  %arg3 is b, from arg1, arg2
  %arg4 is rows0, from arg1, arg2

// ===== output
module {
  sdy.mesh @mesh = <["data"=2, "model"=4]>
  func.func public @main(%arg0: tensor<4x8xf32>, %arg1: tensor<64x8xf32>, %arg2: tensor<4x8xf32>, %arg3: tensor<64x1xui16>, %arg4: tensor<64x8xf32>) -> tensor<4x8xf32> {
    %0 = call @hire_site(%arg2, %arg3, %arg4, %arg1, %arg0) : (tensor<4x8xf32>, tensor<64x1xui16>, tensor<64x8xf32>, tensor<64x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
    return %0 : tensor<4x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<4x8xf32>, %arg1: tensor<64x1xui16>, %arg2: tensor<64x8xf32>, %arg3: tensor<64x8xf32>, %arg4: tensor<4x8xf32>) -> (tensor<4x8xf32>) {
    … on each device {
      … dot_general 2x8xf32, 8x1xf32 → 2x1xf32
      … dot_general 1x1xf32, 1x16xf32 → 1x16xf32  ×2
      … top_k 16xf32 → 7xf32, 7xi32
      … gather 16x2x4xf32 → 7x2x4xf32
      … dot_general 2x8xf32, 8x7xf32 → 2x7xf32
      … gather 16x2x4xf32 → 7x2x4xf32
      … dot_general 2x7xf32, 7x8xf32 → 2x8xf32
      … all_reduce 2x8xf32 → 2x8xf32
    … }
  }
}
