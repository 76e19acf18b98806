// A scale for each neuron may stand on the product's result as well as on the weight: x · int8 · s is the same row of
// numbers. Here it belongs to the rows, and the neurons are ranked with it.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<32x8xi8>, %up_scale: tensor<32xf32>, %down: tensor<32x8xi8>, %down_scale: tensor<8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.convert %up : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %1 = stablehlo.dot_general %x, %0, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %2 = stablehlo.broadcast_in_dim %up_scale, dims = [1] : (tensor<32xf32>) -> tensor<1x32xf32>
  %3 = stablehlo.multiply %1, %2 : tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %4 = stablehlo.maximum %3, %zero : tensor<1x32xf32>
  %5 = stablehlo.convert %down : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %6 = stablehlo.dot_general %4, %5, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  %7 = stablehlo.broadcast_in_dim %down_scale, dims = [1] : (tensor<8xf32>) -> tensor<1x8xf32>
  %8 = stablehlo.multiply %6, %7 : tensor<1x8xf32>
  return %8 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=4),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.5 kB → 0.2 kB read a call
  on?      ffn/0: relu 8→32 int8 as float32 batch 1
             LowRank(rank=1, bfloat16), 8 of 32 rows exact in groups of 4; 0.5
               kB → 0.2 kB read a call, 0.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg1, arg2, arg3, arg4, and prepared:
  %arg5 is a_rows, from arg1, arg2, arg3
  %arg6 is b, from arg1, arg2, arg3

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xi8>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<8xf32>, %arg5: tensor<1x8xf32>, %arg6: tensor<32x1xui16>) -> tensor<1x8xf32> {
    %0 = call @hire_site(%arg5, %arg6, %arg1, %arg3, %arg2, %arg0) : (tensor<1x8xf32>, tensor<32x1xui16>, tensor<32x8xi8>, tensor<32x8xi8>, tensor<32xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    %1 = stablehlo.broadcast_in_dim %arg4, dims = [1] : (tensor<8xf32>) -> tensor<1x8xf32>
    %2 = stablehlo.multiply %0, %1 : tensor<1x8xf32>
    return %2 : tensor<1x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<1x8xf32>, %arg1: tensor<32x1xui16>, %arg2: tensor<32x8xi8>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<1x8xf32>) -> (tensor<1x8xf32>) {
    … dot_general 1x8xf32, 8x1xf32 → 1x1xf32
    … dot_general 1x1xf32, 1x32xf32 → 1x32xf32
    … top_k 8xf32 → 2xf32, 2xi32
    … gather 8x32xi8 → 2x32xi8
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … gather 8x4xf32 → 2x4xf32
    … gather 32x8xi8 → 1x8xi8  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
  }
}
