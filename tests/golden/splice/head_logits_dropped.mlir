// With tail="dropped" a step that returns all logits gets −inf for every row that is no candidate, so a sampler
// never picks it. A rule that asks for this where a softcap would make a number of −inf is refused.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<1024x8xf32>) -> tensor<1x1024xf32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<1024x8xf32>) -> tensor<1x1024xf32> loc("logits/dot_general")
  return %z : tensor<1x1024xf32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, tail="dropped"),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 32.8 kB → 12.5 kB read a call
  on?      head/0: returned 8→1024 float32 batch 1
             Quantized(bits=8), 8 of 1024 rows exact, tail dropped; 32.8 kB →
               12.5 kB read a call, 12.3 kB added
  right?   head/0: approximate: candidates exact, the other logits are not
arguments of the step: arg0, arg1, and prepared:
  %arg2 is q, from arg1
  %arg3 is scale, from arg1
results of the step: the author's, and tail of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<1024x8xf32>, %arg2: tensor<1024x8xi8>, %arg3: tensor<1024xf32>) -> (tensor<1x1024xf32>, tensor<2xf32>) {
    %0:2 = call @hire_site(%arg2, %arg3, %arg1, %arg0) : (tensor<1024x8xi8>, tensor<1024xf32>, tensor<1024x8xf32>, tensor<1x8xf32>) -> (tensor<1x1024xf32>, tensor<2xf32>)
    return %0#0, %0#1 : tensor<1x1024xf32>, tensor<2xf32>
  }
  func.func private @hire_site(%arg0: tensor<1024x8xi8>, %arg1: tensor<1024xf32>, %arg2: tensor<1024x8xf32>, %arg3: tensor<1x8xf32>) -> (tensor<1x1024xf32>, tensor<2xf32>) {
    … dot_general 1x8xf32, 8x1024xf32 → 1x1024xf32
    … top_k 1x32xf32 → 1x8xf32, 1x8xi32
    … top_k 1x256xf32 → 1x8xf32, 1x8xi32
    … gather 1024x8xf32 → 8x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
  }
}
