// A vocabulary of four-bit numbers, with a scale for each row and eight columns: candidates are gathered as they are stored.

// ===== input
func.func public @main(%x: tensor<1x16xf32>, %embed: tensor<64x16xi4>, %scale: tensor<64x2xf32>) -> tensor<1x2xi32> {
  %0 = stablehlo.convert %embed : (tensor<64x16xi4>) -> tensor<64x16xf32>
  %1 = stablehlo.reshape %0 : (tensor<64x16xf32>) -> tensor<64x2x8xf32>
  %2 = stablehlo.broadcast_in_dim %scale, dims = [0, 1] : (tensor<64x2xf32>) -> tensor<64x2x8xf32>
  %3 = stablehlo.multiply %1, %2 : tensor<64x2x8xf32>
  %w = stablehlo.reshape %3 : (tensor<64x2x8xf32>) -> tensor<64x16xf32>
  %z = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<1x16xf32>, tensor<64x16xf32>) -> tensor<1x64xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x64xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=LowRank(rank=1), candidates=4),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.3 kB read a call
  on?      head/0: top_k 16→64 int4 as float32 batch 1
             LowRank(rank=1, bfloat16), 4 of 64 rows exact; 1.0 kB → 0.3 kB read
               a call, 0.2 kB added
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
  note     head/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is a_rows, from arg1, arg2
  %arg4 is b, from arg1, arg2

// ===== output
module {
  func.func public @main(%arg0: tensor<1x16xf32>, %arg1: tensor<64x16xi4>, %arg2: tensor<64x2xf32>, %arg3: tensor<1x16xf32>, %arg4: tensor<64x1xui16>) -> tensor<1x2xi32> {
    %0:2 = call @hire_site(%arg3, %arg4, %arg1, %arg2, %arg0) : (tensor<1x16xf32>, tensor<64x1xui16>, tensor<64x16xi4>, tensor<64x2xf32>, tensor<1x16xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>)
    return %0#1 : tensor<1x2xi32>
  }
  func.func private @hire_site(%arg0: tensor<1x16xf32>, %arg1: tensor<64x1xui16>, %arg2: tensor<64x16xi4>, %arg3: tensor<64x2xf32>, %arg4: tensor<1x16xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) {
    … dot_general 1x16xf32, 16x1xf32 → 1x1xf32
    … dot_general 1x1xf32, 1x64xf32 → 1x64xf32
    … top_k 1x64xf32 → 1x4xf32, 1x4xi32
    … gather 64x16xi8 → 4x16xi8
    … gather 64x2xf32 → 4x2xf32
    … dot_general 1x16xf32, 16x4xf32 → 1x4xf32
    … top_k 1x4xf32 → 1x2xf32, 1x2xi32
  }
}
