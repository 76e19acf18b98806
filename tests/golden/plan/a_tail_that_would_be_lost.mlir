// tail="dropped" marks the rows that are no candidates with −inf; behind a tanh that is −1 and no mark any more, so the rule
// is refused, with the way out.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<1024x8xf32>) -> tensor<1x1024xf32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<1024x8xf32>) -> tensor<1x1024xf32> loc("logits/dot_general")
  %0 = stablehlo.tanh %z : tensor<1x1024xf32>
  return %0 : tensor<1x1024xf32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, tail="dropped"),))

// ===== report
ConfigError: rule 0 on head/0 (logits, 8→1024): tail='dropped' is lost behind what the program does with the
logits (a softcap?): −inf does not stay −inf; use tail='predicted'

// ===== plan
none
