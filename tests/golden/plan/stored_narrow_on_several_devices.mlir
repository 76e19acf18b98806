// Weights that are computed from int8 numbers and scales are not followed over devices yet, so the block stays dense there.

// ===== input
sdy.mesh @mesh = <["model"=4]>
func.func public @main(%x: tensor<2x8xf32>, %up: tensor<32x8xi8> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}, %up_scale: tensor<32xf32>, %down: tensor<32x8xi8> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}, %down_scale: tensor<32xf32>) -> tensor<2x8xf32> {
  %0 = stablehlo.convert %up : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %1 = stablehlo.broadcast_in_dim %up_scale, dims = [0] : (tensor<32xf32>) -> tensor<32x8xf32>
  %w = stablehlo.multiply %0, %1 : tensor<32x8xf32>
  %2 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : (tensor<2x8xf32>, tensor<32x8xf32>) -> tensor<2x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x32xf32>
  %3 = stablehlo.maximum %2, %zero : tensor<2x32xf32>
  %4 = stablehlo.convert %down : (tensor<32x8xi8>) -> tensor<32x8xf32>
  %5 = stablehlo.broadcast_in_dim %down_scale, dims = [0] : (tensor<32xf32>) -> tensor<32x8xf32>
  %v = stablehlo.multiply %4, %5 : tensor<32x8xf32>
  %6 = stablehlo.dot_general %3, %v, contracting_dims = [1] x [0] : (tensor<2x32xf32>, tensor<32x8xf32>) -> tensor<2x8xf32> loc("mlp/down/dot_general")
  return %6 : tensor<2x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25),))

// ===== setting
devices: 4

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→32 int8 as float32 batch 2
             left dense: sharded over 4 devices: its weights are computed from
               numbers and scales, which is not followed over devices yet
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: dense, sharded over 4 devices: its weights are computed from numbers and scales, which is not followed over devices yet
