// Top-k, then top-p, then a sample, as engines write it, are one tail and become one call. The best four, a softmax
// of them, its running sum, the smallest logit that is kept, the mask and the noise are followed on bounds.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>, %noise: tensor<1x32xf32>) -> tensor<1x1xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %best, %at = chlo.top_k(%z, k = 4) : tensor<1x32xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  %snone = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %szero = stablehlo.constant dense<0.0> : tensor<f32>
  %s0 = stablehlo.reduce(%best init: %snone) applies stablehlo.maximum across dimensions = [1] : (tensor<1x4xf32>, tensor<f32>) -> tensor<1xf32>
  %s1 = stablehlo.broadcast_in_dim %s0, dims = [0] : (tensor<1xf32>) -> tensor<1x4xf32>
  %s2 = stablehlo.subtract %best, %s1 : tensor<1x4xf32>
  %s3 = stablehlo.exponential %s2 : tensor<1x4xf32>
  %s4 = stablehlo.reduce(%s3 init: %szero) applies stablehlo.add across dimensions = [1] : (tensor<1x4xf32>, tensor<f32>) -> tensor<1xf32>
  %s5 = stablehlo.broadcast_in_dim %s4, dims = [0] : (tensor<1xf32>) -> tensor<1x4xf32>
  %p = stablehlo.divide %s3, %s5 : tensor<1x4xf32>
  %sum = "stablehlo.reduce_window"(%p, %szero) <{padding = dense<[[0, 0], [3, 0]]> : tensor<2x2xi64>, window_dimensions = array<i64: 1, 4>}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    %c = stablehlo.add %a, %b : tensor<f32>
    stablehlo.return %c : tensor<f32>
  }) : (tensor<1x4xf32>, tensor<f32>) -> tensor<1x4xf32>
  %before = stablehlo.subtract %sum, %p : tensor<1x4xf32>
  %most = stablehlo.constant dense<0.9> : tensor<1x4xf32>
  %kept = stablehlo.compare LT, %before, %most, FLOAT : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xi1>
  %inf = stablehlo.constant dense<0x7F800000> : tensor<1x4xf32>
  %cuts = stablehlo.select %kept, %best, %inf : tensor<1x4xi1>, tensor<1x4xf32>
  %top = stablehlo.constant dense<0x7F800000> : tensor<f32>
  %cut = stablehlo.reduce(%cuts init: %top) applies stablehlo.minimum across dimensions = [1] : (tensor<1x4xf32>, tensor<f32>) -> tensor<1xf32>
  %cut_all = stablehlo.broadcast_in_dim %cut, dims = [0] : (tensor<1xf32>) -> tensor<1x32xf32>
  %stays = stablehlo.compare GE, %z, %cut_all, FLOAT : (tensor<1x32xf32>, tensor<1x32xf32>) -> tensor<1x32xi1>
  %never = stablehlo.constant dense<0xFF800000> : tensor<1x32xf32>
  %left = stablehlo.select %stays, %z, %never : tensor<1x32xi1>, tensor<1x32xf32>
  %noisy = stablehlo.add %left, %noise : tensor<1x32xf32>
  %value, %id = chlo.top_k(%noisy, k = 1) : tensor<1x32xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  return %id : tensor<1x1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify=True),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.8 kB read a call
  on?      head/0: top_k 8→32 float32 batch 1
             Quantized(bits=8), 8 of 32 rows exact; 1.0 kB → 0.8 kB read a call,
               0.7 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is blocks, from arg1
  %arg4 is bound, from arg1
  %arg5 is norm, from arg1
  %arg6 is q, from arg1
  %arg7 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x32xf32>, %arg3: tensor<32x1xui16>, %arg4: tensor<32xf32>, %arg5: tensor<32xf32>, %arg6: tensor<32x8xi8>, %arg7: tensor<32xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg3, %arg4, %arg5, %arg6, %arg7, %arg1, %arg0, %arg2, %arg0, %arg1, %arg2) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x32xf32>, tensor<1x8xf32>, tensor<32x8xf32>, tensor<1x32xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>)
    return %0#1, %0#2 : tensor<1x1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x32xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>) { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x32xf32>, %arg8: tensor<1x8xf32>, %arg9: tensor<32x8xf32>, %arg10: tensor<1x32xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>) { … }
}
