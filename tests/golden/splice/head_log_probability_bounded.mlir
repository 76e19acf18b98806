// The log-probability of the token needs all logits; with logprobs="bounded" it comes out as the middle of proven bounds.
// The token itself is proven as ever. How far off the number may be is returned, and the report says it as τ.

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
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify="strict", logprobs="bounded"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.8 kB read a call
  on?      head/0: logsumexp+top_k 8→32 float32 batch 1
             Quantized(bits=8), 8 of 32 rows exact; 1.0 kB → 0.8 kB read a call,
               0.7 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs; numbers of its logits lie
             between proven bounds, off by τ at most
arguments of the step: arg0, arg1, and prepared:
  %arg2 is blocks, from arg1
  %arg3 is bound, from arg1
  %arg4 is norm, from arg1
  %arg5 is q, from arg1
  %arg6 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<32x1xui16>, %arg3: tensor<32xf32>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xi8>, %arg6: tensor<32xf32>) -> (tensor<1x1xi32>, tensor<1xf32>, tensor<2xf32>) {
    %0:4 = call @hire_site(%arg2, %arg3, %arg4, %arg5, %arg6, %arg1, %arg0, %arg0, %arg1) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<32x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<1xf32>, tensor<2xf32>)
    return %0#1, %0#2, %0#3 : tensor<1x1xi32>, tensor<1xf32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<1xf32>) { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x8xf32>, %arg8: tensor<32x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<1xf32>, tensor<2xf32>) { … }
}
