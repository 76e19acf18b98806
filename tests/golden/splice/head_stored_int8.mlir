// Rows of weights that the author stores as int8 are gathered as they are stored. The author's conversion and scales
// are repeated on the eight that are chosen.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %stored: tensor<32x8xi8>, %scale: tensor<32x1xf32>) -> tensor<1x2xi32> {
  %0 = stablehlo.convert %stored : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %1 = stablehlo.broadcast_in_dim %scale, dims = [0, 1] : (tensor<32x1xf32>) -> tensor<32x8xf32>
  %w = stablehlo.multiply %0, %1 : tensor<32x8xf32>
  %z = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x32xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=LowRank(rank=2), candidates=8),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.4 kB → 0.3 kB read a call
  on?      head/0: top_k 8→32 int8 as float32 batch 1
             LowRank(rank=2, bfloat16), 8 of 32 rows exact; 0.4 kB → 0.3 kB read
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
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xi8>, %arg2: tensor<32x1xf32>, %arg3: tensor<2x8xf32>, %arg4: tensor<32x2xui16>) -> tensor<1x2xi32> {
    %0:2 = call @hire_site(%arg3, %arg4, %arg1, %arg2, %arg0) : (tensor<2x8xf32>, tensor<32x2xui16>, tensor<32x8xi8>, tensor<32x1xf32>, tensor<1x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>)
    return %0#1 : tensor<1x2xi32>
  }
  func.func private @hire_site(%arg0: tensor<2x8xf32>, %arg1: tensor<32x2xui16>, %arg2: tensor<32x8xi8>, %arg3: tensor<32x1xf32>, %arg4: tensor<1x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) {
    … dot_general 1x8xf32, 8x2xf32 → 1x2xf32
    … dot_general 1x2xf32, 2x32xf32 → 1x32xf32
    … top_k 1x32xf32 → 1x8xf32, 1x8xi32
    … gather 32x8xi8 → 8x8xi8
    … gather 32x1xf32 → 8x1xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … top_k 1x8xf32 → 1x2xf32, 1x2xi32
  }
}
