// Exact() skips only zeros: the up-projection is computed whole, its active neurons are counted, and a case runs the
// smallest budget that has room for them, and behind the last budget the dense block. Without a calibration the
// budgets are 1/16, 1/8 and 1/4 of the width.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact(), group=1),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 1.4 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             Exact(), 8 of 32 rows exact; 2.0 kB → 1.4 kB read a call, 1.2 kB
               added
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is largest, from arg1, arg2
  %arg4 is limit0, from arg1, arg2
  %arg5 is rows0, from arg1, arg2
results of the step: the author's, and proof of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1xf32>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<70xi32>) {
    %0:2 = call @hire_site(%arg3, %arg4, %arg5, %arg2, %arg0, %arg0, %arg1, %arg2) : (tensor<1xf32>, tensor<32xf32>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<8x32xf32>, tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<70xi32>)
    return %0#0, %0#1 : tensor<1x8xf32>, tensor<70xi32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<32x8xf32>) -> tensor<1x8xf32> { … }
  func.func private @hire_site(%arg0: tensor<1xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<1x8xf32>, %arg5: tensor<1x8xf32>, %arg6: tensor<8x32xf32>, %arg7: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<70xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … case {
      … top_k 32xf32 → 2xf32, 2xi32
      … gather 32x8xf32 → 1x8xf32  ×8
      … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … } {
      … top_k 32xf32 → 4xf32, 4xi32
      … gather 32x8xf32 → 1x8xf32  ×8
      … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … } {
      … top_k 32xf32 → 8xf32, 8xi32
      … gather 32x8xf32 → 1x8xf32  ×8
      … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … } {
      … dot_general 1x32xf32, 32x8xf32 → 1x8xf32
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
