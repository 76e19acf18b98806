// A gated ReLU block computes its gate whole, and reads up and down only for neurons whose gate is not zero. That
// the product with the gate is zero is proven from the author's code; that the other factor is finite, from the
// norms of its rows (limit1). Where the norms and the largest entry of down do not exclude that a sum overflows, the
// author's own operations run: the order of such a sum decides between Inf, NaN and a number.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %gate: tensor<8x32xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %gate, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/gate/dot_general")
  %1 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %3 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %4 = stablehlo.multiply %3, %1 : tensor<1x32xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %5 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact(), candidates=8, group=1),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 3.1 kB → 1.8 kB read a call
  on?      ffn/0: gated relu 8→32 float32 batch 1
             Exact(), 8 of 32 rows exact; 3.1 kB → 1.8 kB read a call, 2.3 kB
               added
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, arg3, and prepared:
  %arg4 is largest, from arg1, arg2, arg3
  %arg5 is limit0, from arg1, arg2, arg3
  %arg6 is limit1, from arg1, arg2, arg3
  %arg7 is rows0, from arg1, arg2, arg3
  %arg8 is rows1, from arg1, arg2, arg3
results of the step: the author's, and proof of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<8x32xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<1xf32>, %arg5: tensor<32xf32>, %arg6: tensor<32xf32>, %arg7: tensor<32x8xf32>, %arg8: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    %0:2 = call @hire_site(%arg4, %arg5, %arg6, %arg7, %arg8, %arg3, %arg0, %arg0, %arg1, %arg2, %arg3) : (tensor<1xf32>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<8x32xf32>, tensor<8x32xf32>, tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>)
    return %0#0, %0#1 : tensor<1x8xf32>, tensor<68xi32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<8x32xf32>, %arg3: tensor<32x8xf32>) -> tensor<1x8xf32> { … }
  func.func private @hire_site(%arg0: tensor<1xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<32x8xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x8xf32>, %arg8: tensor<8x32xf32>, %arg9: tensor<8x32xf32>, %arg10: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … case {
      … top_k 32xf32 → 8xf32, 8xi32
      … gather 32x2x4xf32 → 8x2x4xf32
      … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
      … gather 32x8xf32 → 1x8xf32  ×8
      … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … } {
      … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
      … dot_general 1x32xf32, 32x8xf32 → 1x8xf32
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
