// By default a step gives what dense gives, so a head whose log-probabilities are returned stays dense; the reason names the
// number, and a rule with logprobs="bounded" is the way out.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>) -> (tensor<1x1xi32>, tensor<1xf32>) {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %value, %token = chlo.top_k(%z, k = 1) : tensor<1x32xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  %0 = stablehlo.broadcast_in_dim %value, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x32xf32>
  %1 = stablehlo.subtract %z, %0 : tensor<1x32xf32>
  %2 = stablehlo.exponential %1 : tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %3 = stablehlo.reduce(%2 init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<1x32xf32>, tensor<f32>) -> tensor<1xf32>
  %4 = stablehlo.log %3 : tensor<1xf32>
  %logp = stablehlo.negate %4 : tensor<1xf32>
  return %token, %logp : tensor<1x1xi32>, tensor<1xf32>
}

// ===== config
Config()

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? head/0: logsumexp+top_k 8→32 float32 batch 1
             left dense: a number that is only known between bounds (reduce) is
               returned as [1] (if nobody reads it: Config(unused=("\\[1\\]",))
               certifies the head), and no rule asks to approximate it
  note     no site is rewritten, so the function runs unchanged

// ===== plan
cpu: head/0 [logits] 8→32: dense, a number that is only known between bounds (reduce) is returned as [1] (if nobody reads it: Config(unused=("\\[1\\]",)) certifies the head), and no rule asks to approximate it
