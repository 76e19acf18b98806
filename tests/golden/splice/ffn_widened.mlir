// Weights in float32 of which every entry is a bfloat16 number, as in a checkpoint that was widened, are kept and read as
// bfloat16 (its bits, ui16, on the CPU): the same numbers in half the bytes. Each later set of weights is checked.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact(), candidates=8, group=1),))

// ===== setting
weights: widened

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 0.8 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             Exact(), 8 of 32 rows exact; 2.0 kB → 0.8 kB read a call, 1.2 kB
               added
             every entry is a bfloat16 number, and is kept and read as one
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is largest, from arg1, arg2
  %arg4 is limit0, from arg1, arg2
  %arg5 is rows0, from arg1, arg2
  %arg6 is rows1, from arg1, arg2
results of the step: the author's, and proof of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1xf32>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xui16>, %arg6: tensor<32x8xui16>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    %0:2 = call @hire_site(%arg3, %arg4, %arg5, %arg6, %arg0, %arg0, %arg1, %arg2) : (tensor<1xf32>, tensor<32xf32>, tensor<32x8xui16>, tensor<32x8xui16>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<8x32xf32>, tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>)
    return %0#0, %0#1 : tensor<1x8xf32>, tensor<68xi32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<32x8xf32>) -> tensor<1x8xf32> { … }
  func.func private @hire_site(%arg0: tensor<1xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xui16>, %arg3: tensor<32x8xui16>, %arg4: tensor<1x8xf32>, %arg5: tensor<1x8xf32>, %arg6: tensor<8x32xf32>, %arg7: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … case {
      … top_k 32xf32 → 8xf32, 8xi32
      … gather 32x8xui16 → 1x8xui16  ×8
      … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … } {
      … gather 32x8xui16 → 4x8xui16  ×8
      … dot_general 1x4xf32, 4x8xf32 → 1x8xf32
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
