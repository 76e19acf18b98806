// A rule that asks for what cannot be proven is refused, with the reason and a way out: all logits of this head are
// returned, so it has no winner to prove.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<1024x8xf32>) -> tensor<1x1024xf32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<1024x8xf32>) -> tensor<1x1024xf32> loc("logits/dot_general")
  %cap = stablehlo.constant dense<30.0> : tensor<1x1024xf32>
  %0 = stablehlo.divide %z, %cap : tensor<1x1024xf32>
  %1 = stablehlo.tanh %0 : tensor<1x1024xf32>
  %2 = stablehlo.multiply %1, %cap : tensor<1x1024xf32>
  return %2 : tensor<1x1024xf32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify=True),))

// ===== report
ConfigError: rule 0 on head/0 (logits, 8→1024): certify=True is impossible: the program returns values of the
whole vocabulary as [0] (if nobody reads it: Config(unused=("\\[0\\]",)) certifies the head), and only winners
can be proven; leave certify out, or fold the sampler in with hire.with_sampler

// ===== plan
none
