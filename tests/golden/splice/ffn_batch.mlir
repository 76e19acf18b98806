// The rows of a batch share one choice: a group counts with its largest prediction in any row, so that each weight
// is read once for all.

// ===== input
func.func public @main(%x: tensor<4x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<4x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<4x8xf32>, tensor<8x32xf32>) -> tensor<4x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<4x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<4x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<4x32xf32>, tensor<32x8xf32>) -> tensor<4x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<4x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=2), density=0.25, group=2),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 0.7 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 4
             LowRank(rank=2, bfloat16), 8 of 32 rows exact in groups of 2; 2.0
               kB → 0.7 kB read a call, 1.2 kB added
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
  func.func public @main(%arg0: tensor<4x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<2x8xf32>, %arg3: tensor<32x2xui16>, %arg4: tensor<32x8xf32>) -> tensor<4x8xf32> {
    %0 = call @hire_site(%arg2, %arg3, %arg4, %arg1, %arg0) : (tensor<2x8xf32>, tensor<32x2xui16>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
    return %0 : tensor<4x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<2x8xf32>, %arg1: tensor<32x2xui16>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<4x8xf32>) -> (tensor<4x8xf32>) {
    … dot_general 4x8xf32, 8x2xf32 → 4x2xf32
    … dot_general 1x2xf32, 2x32xf32 → 1x32xf32  ×4
    … top_k 16xf32 → 4xf32, 4xi32
    … gather 16x2x8xf32 → 4x2x8xf32
    … dot_general 4x8xf32, 8x8xf32 → 4x8xf32
    … gather 16x2x8xf32 → 4x2x8xf32
    … dot_general 4x8xf32, 8x8xf32 → 4x8xf32
  }
}
