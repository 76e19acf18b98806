// On a GPU an expert that the router chose is read with one gather a matrix; on a CPU its rows are read one by one, where
// they lie.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %router: tensor<8x4xf32>, %up: tensor<4x8x32xf32>, %down: tensor<4x32x8xf32>) -> tensor<1x8xf32> {
  %score = stablehlo.dot_general %x, %router, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x4xf32>) -> tensor<1x4xf32> loc("moe/router/dot_general")
  %p = stablehlo.logistic %score : tensor<1x4xf32>
  %best, %which = chlo.top_k(%p, k = 1) : tensor<1x4xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  %least = stablehlo.broadcast_in_dim %best, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
  %chosen = stablehlo.compare GE, %p, %least : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xi1>
  %none = stablehlo.constant dense<0.0> : tensor<1x4xf32>
  %weights = stablehlo.select %chosen, %p, %none : tensor<1x4xi1>, tensor<1x4xf32>
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<4x8x32xf32>) -> tensor<1x4x32xf32> loc("moe/up/dot_general")
  %1 = stablehlo.logistic %0 : tensor<1x4x32xf32>
  %2 = stablehlo.multiply %0, %1 : tensor<1x4x32xf32>
  %3 = stablehlo.dot_general %2, %down, batching_dims = [1] x [0], contracting_dims = [2] x [1] : (tensor<1x4x32xf32>, tensor<4x32x8xf32>) -> tensor<4x1x8xf32> loc("moe/down/dot_general")
  %4 = stablehlo.dot_general %weights, %3, batching_dims = [0] x [1], contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x1x8xf32>) -> tensor<1x8xf32> loc("moe/sum/dot_general")
  return %4 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="experts", predictor=Exact()),))

// ===== setting
platform: gpu

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 8.2 kB → 2.0 kB read a call
  on?      experts/0: experts after an explicit choice of 1 8→4 float32 batch 1
             Exact(), 1 of 4 experts exact; 8.2 kB → 2.0 kB read a call
  right?   experts/0: exact: the experts that no row of a call uses are skipped,
             as many as there are
  why not? a router: it scores 4 experts  [moe/router]
arguments of the step: arg0, arg1, arg2, arg3, and prepared:
  %arg4 is size0, from arg2, arg3
  %arg5 is size1, from arg2, arg3
results of the step: the author's, and proof of experts/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<8x4xf32>, %arg2: tensor<4x8x32xf32>, %arg3: tensor<4x32x8xf32>, %arg4: tensor<4xf32>, %arg5: tensor<4xf32>) -> (tensor<1x8xf32>, tensor<i32>) {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x4xf32>) -> tensor<1x4xf32>
    %1 = stablehlo.logistic %0 : tensor<1x4xf32>
    %values, %indices = chlo.top_k(%1, k = 1) : tensor<1x4xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
    %2 = stablehlo.broadcast_in_dim %values, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %3 = stablehlo.compare GE, %1, %2 : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xi1>
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<1x4xf32>
    %4 = stablehlo.select %3, %1, %cst : tensor<1x4xi1>, tensor<1x4xf32>
    %5:2 = call @hire_site(%arg4, %arg5, %arg2, %arg3, %4, %arg0) : (tensor<4xf32>, tensor<4xf32>, tensor<4x8x32xf32>, tensor<4x32x8xf32>, tensor<1x4xf32>, tensor<1x8xf32>) -> (tensor<8xf32>, tensor<i32>)
    %6 = stablehlo.reshape %5#0 : (tensor<8xf32>) -> tensor<1x8xf32>
    return %6, %5#1 : tensor<1x8xf32>, tensor<i32>
  }
  func.func private @hire_site(%arg0: tensor<4xf32>, %arg1: tensor<4xf32>, %arg2: tensor<4x8x32xf32>, %arg3: tensor<4x32x8xf32>, %arg4: tensor<1x4xf32>, %arg5: tensor<1x8xf32>) -> (tensor<8xf32>, tensor<i32>) {
    … while { } {
      … gather 4x8x32xf32 → 1x8x32xf32
      … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
      … gather 4x32x8xf32 → 1x32x8xf32
      … dot_general 1x32xf32, 32x8xf32 → 1x8xf32
      … dot_general 1x1xf32, 1x1x8xf32 → 8xf32
    … }
  }
}
