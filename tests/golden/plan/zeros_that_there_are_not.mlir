// Exact() skips neurons that are exactly zero; where the activation gives none (silu), the rule is refused.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %s = stablehlo.logistic %0 : tensor<1x32xf32>
  %1 = stablehlo.multiply %0, %s : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact()),))

// ===== report
ConfigError: rule 0 on ffn/0 (mlp/down, 8→32): Exact() needs exact zeros, which silu does not give

// ===== plan
none
