// Experts that are spread over devices are not followed yet: a rule for them leaves the layer as its author wrote it, with
// the reason.

// ===== input
sdy.mesh @mesh = <["expert"=4]>
func.func public @main(%x: tensor<1x8xf32>, %router: tensor<8x4xf32>, %up: tensor<4x8x32xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"expert"}, {}, {}]>}, %down: tensor<4x32x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"expert"}, {}, {}]>}) -> tensor<1x8xf32> {
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
devices: 4

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? experts/0: experts after an explicit choice of 1 8→4 float32 batch 1
             left dense: sharded over 4 devices: its experts are spread over
               devices or copied to them, which is not followed yet
           a router: it scores 4 experts  [moe/router]
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: experts/0 [moe/down] 8→4: dense, sharded over 4 devices: its experts are spread over devices or copied to them, which is not followed yet
