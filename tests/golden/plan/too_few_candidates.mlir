// A program that reads the best four rows cannot be served by two candidates, so the rule is refused.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<64x8xf32>) -> tensor<1x4xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<64x8xf32>) -> tensor<1x64xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 4) : tensor<1x64xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  return %ids : tensor<1x4xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=2),))

// ===== report
ConfigError: rule 0 on head/0 (logits, 8→64): 2 candidates cannot hold the top 4 that the program reads

// ===== plan
none
