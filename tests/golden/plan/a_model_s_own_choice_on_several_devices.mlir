// A model that keeps the strongest of all its neurons compares those of all devices, so no device can choose by itself: the
// block stays dense.

// ===== input
sdy.mesh @mesh = <["model"=4]>
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}, %down: tensor<32x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %values, %ids = chlo.top_k(%0, k = 4) : tensor<1x32xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  %1 = stablehlo.slice %values [0:1, 3:4] : (tensor<1x4xf32>) -> tensor<1x1xf32>
  %2 = stablehlo.broadcast_in_dim %1, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x32xf32>
  %3 = stablehlo.compare GE, %0, %2, FLOAT : (tensor<1x32xf32>, tensor<1x32xf32>) -> tensor<1x32xi1>
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %4 = stablehlo.select %3, %0, %zero : tensor<1x32xi1>, tensor<1x32xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %5 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact()),))

// ===== setting
devices: 4

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu after an explicit top_k 8→32 float32 batch 1
             left dense: sharded over 4 devices: the model chooses neurons
               itself (top_k) among those of all devices
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: dense, sharded over 4 devices: the model chooses neurons itself (top_k) among those of all devices
