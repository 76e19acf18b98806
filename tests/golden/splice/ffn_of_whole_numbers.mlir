// Inputs and weights are both int8, summed as whole numbers (w8a8). A neuron that is zero is still zero when the row is
// rounded to int8, so it is skipped; and whole numbers are summed without rounding, so the result is dense's bit for bit.

// ===== input
func.func public @main(%xq: tensor<2x8xi8>, %xs: tensor<2xf32>, %up: tensor<8x32xi8>, %up_scale: tensor<32xf32>, %down: tensor<32x8xi8>) -> tensor<2x8xf32> {
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %most = stablehlo.constant dense<127.0> : tensor<2xf32>
  %0 = stablehlo.dot_general %xq, %up, contracting_dims = [1] x [0] : (tensor<2x8xi8>, tensor<8x32xi8>) -> tensor<2x32xi32> loc("mlp/up/dot_general")
  %1 = stablehlo.convert %0 : (tensor<2x32xi32>) -> tensor<2x32xf32>
  %xw = stablehlo.broadcast_in_dim %xs, dims = [0] : (tensor<2xf32>) -> tensor<2x32xf32>
  %2 = stablehlo.multiply %1, %xw : tensor<2x32xf32>
  %us = stablehlo.broadcast_in_dim %up_scale, dims = [1] : (tensor<32xf32>) -> tensor<2x32xf32>
  %3 = stablehlo.multiply %2, %us : tensor<2x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<2x32xf32>
  %h = stablehlo.maximum %3, %zero : tensor<2x32xf32>
  %ha = stablehlo.abs %h : tensor<2x32xf32>
  %hm = stablehlo.reduce(%ha init: %low) applies stablehlo.maximum across dimensions = [1] : (tensor<2x32xf32>, tensor<f32>) -> tensor<2xf32>
  %hs = stablehlo.divide %hm, %most : tensor<2xf32>
  %hb = stablehlo.broadcast_in_dim %hs, dims = [0] : (tensor<2xf32>) -> tensor<2x32xf32>
  %hd = stablehlo.divide %h, %hb : tensor<2x32xf32>
  %hr = stablehlo.round_nearest_even %hd : tensor<2x32xf32>
  %hq = stablehlo.convert %hr : (tensor<2x32xf32>) -> tensor<2x32xi8>
  %4 = stablehlo.dot_general %hq, %down, contracting_dims = [1] x [0] : (tensor<2x32xi8>, tensor<32x8xi8>) -> tensor<2x8xi32> loc("mlp/down/dot_general")
  %5 = stablehlo.convert %4 : (tensor<2x8xi32>) -> tensor<2x8xf32>
  %hw = stablehlo.broadcast_in_dim %hs, dims = [0] : (tensor<2xf32>) -> tensor<2x8xf32>
  %6 = stablehlo.multiply %5, %hw : tensor<2x8xf32>
  return %6 : tensor<2x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact(), candidates=8, group=1),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.5 kB → 0.4 kB read a call
  on?      ffn/0: relu 8→32 int8 as int32 batch 2
             Exact(), 8 of 32 rows exact; 0.5 kB → 0.4 kB read a call, 0.4 kB
               added
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, arg3, arg4, and prepared:
  %arg5 is largest, from arg2, arg4
  %arg6 is limit0, from arg2, arg4
  %arg7 is rows0_0, from arg2, arg4
results of the step: the author's, and proof of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xi8>, %arg1: tensor<2xf32>, %arg2: tensor<8x32xi8>, %arg3: tensor<32xf32>, %arg4: tensor<32x8xi8>, %arg5: tensor<1xf32>, %arg6: tensor<32xf32>, %arg7: tensor<32x8xi8>) -> (tensor<2x8xf32>, tensor<68xi32>) {
    %0:3 = call @hire_site(%arg5, %arg6, %arg7, %arg4, %arg3, %arg0, %arg1, %arg0, %arg2, %arg1, %arg3, %arg4) : (tensor<1xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32x8xi8>, tensor<32xf32>, tensor<2x8xi8>, tensor<2xf32>, tensor<2x8xi8>, tensor<8x32xi8>, tensor<2xf32>, tensor<32xf32>, tensor<32x8xi8>) -> (tensor<2x8xi32>, tensor<2xf32>, tensor<68xi32>)
    %1 = stablehlo.convert %0#0 : (tensor<2x8xi32>) -> tensor<2x8xf32>
    %2 = stablehlo.broadcast_in_dim %0#1, dims = [0] : (tensor<2xf32>) -> tensor<2x8xf32>
    %3 = stablehlo.multiply %1, %2 : tensor<2x8xf32>
    return %3, %0#2 : tensor<2x8xf32>, tensor<68xi32>
  }
  func.func private @hire_author_0(%arg0: tensor<2x8xi8>, %arg1: tensor<8x32xi8>, %arg2: tensor<2xf32>, %arg3: tensor<32xf32>, %arg4: tensor<32x8xi8>) -> (tensor<2x8xi32>, tensor<2xf32>) { … }
  func.func private @hire_site(%arg0: tensor<1xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xi8>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<2x8xi8>, %arg6: tensor<2xf32>, %arg7: tensor<2x8xi8>, %arg8: tensor<8x32xi8>, %arg9: tensor<2xf32>, %arg10: tensor<32xf32>, %arg11: tensor<32x8xi8>) -> (tensor<2x8xi32>, tensor<2xf32>, tensor<68xi32>) { … }
}
