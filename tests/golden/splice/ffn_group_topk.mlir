// A model trained with hire.group_topk keeps its eight strongest neurons in pairs; the others are skipped exactly.
// The composite says how many pass, so that is the room; if more pass (groups that tie), the dense block runs.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.composite "hire.group_topk" %1 {composite_attributes = {group = 2 : i64, k = 8 : i64}, decomposition = @hire.group_topk} : (tensor<1x32xf32>) -> tensor<1x32xf32>
  %3 = stablehlo.dot_general %2, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %3 : tensor<1x8xf32>
}
func.func private @hire.group_topk(%h: tensor<1x32xf32>) -> tensor<1x32xf32> {
  %pairs = stablehlo.reshape %h : (tensor<1x32xf32>) -> tensor<1x16x2xf32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %best = stablehlo.reduce(%pairs init: %low) applies stablehlo.maximum across dimensions = [2] : (tensor<1x16x2xf32>, tensor<f32>) -> tensor<1x16xf32>
  %values, %ids = chlo.top_k(%best, k = 4) : tensor<1x16xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  %least = stablehlo.slice %values [0:1, 3:4] : (tensor<1x4xf32>) -> tensor<1x1xf32>
  %all = stablehlo.broadcast_in_dim %least, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x16xf32>
  %kept = stablehlo.compare GE, %best, %all, FLOAT : (tensor<1x16xf32>, tensor<1x16xf32>) -> tensor<1x16xi1>
  %both = stablehlo.broadcast_in_dim %kept, dims = [0, 1] : (tensor<1x16xi1>) -> tensor<1x16x2xi1>
  %mask = stablehlo.reshape %both : (tensor<1x16x2xi1>) -> tensor<1x32xi1>
  %none = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %chosen = stablehlo.select %mask, %h, %none : tensor<1x32xi1>, tensor<1x32xf32>
  return %chosen : tensor<1x32xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact()),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 1.4 kB read a call
  on?      ffn/0: relu after an explicit group_topk 8→32 float32 batch 1
             Exact(), 8 of 32 rows exact in groups of 2; 2.0 kB → 1.4 kB read a
               call, 1.2 kB added
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is largest, from arg1, arg2
  %arg4 is limit0, from arg1, arg2
  %arg5 is rows0, from arg1, arg2
results of the step: the author's, and proof of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1xf32>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    %0:2 = call @hire_site(%arg3, %arg4, %arg5, %arg2, %arg0, %arg0, %arg1, %arg2) : (tensor<1xf32>, tensor<32xf32>, tensor<32x8xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<8x32xf32>, tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>)
    return %0#0, %0#1 : tensor<1x8xf32>, tensor<68xi32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<8x32xf32>, %arg2: tensor<32x8xf32>) -> tensor<1x8xf32> { … }
  func.func private @hire_site(%arg0: tensor<1xf32>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x8xf32>, %arg4: tensor<1x8xf32>, %arg5: tensor<1x8xf32>, %arg6: tensor<8x32xf32>, %arg7: tensor<32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … top_k 1x16xf32 → 1x4xf32, 1x4xi32
    … case {
      … top_k 16xf32 → 4xf32, 4xi32
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
