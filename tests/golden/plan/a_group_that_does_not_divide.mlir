// Neurons are chosen in groups of the same size; a size that does not divide the width is refused, with those that do.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=5),))

// ===== report
ConfigError: rule 0 on ffn/0 (mlp/down, 8→32): group 5 does not divide the width 32; use one of [1, 2, 4, 8,
16, 32]

// ===== plan
none
