// Guidance subtracts the logits of one row of the batch from those of another and takes the best of the result. Both rows
// have the same candidates, so the result is exact for these and bounded for all others.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %embed: tensor<128x8xf32>) -> tensor<1x1xi32> {
  %0 = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<2x8xf32>, tensor<128x8xf32>) -> tensor<2x128xf32> loc("logits/dot_general")
  %with = stablehlo.slice %0 [0:1, 0:128] : (tensor<2x128xf32>) -> tensor<1x128xf32>
  %without = stablehlo.slice %0 [1:2, 0:128] : (tensor<2x128xf32>) -> tensor<1x128xf32>
  %two = stablehlo.constant dense<2.0> : tensor<1x128xf32>
  %1 = stablehlo.multiply %with, %two : tensor<1x128xf32>
  %z = stablehlo.subtract %1, %without : tensor<1x128xf32>
  %value, %token = chlo.top_k(%z, k = 1) : tensor<1x128xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  return %token : tensor<1x1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=16, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 4.1 kB → 2.6 kB read a call
  on?      head/0: top_k 8→128 float32 batch 2
             Quantized(bits=8), 16 of 128 rows exact; 4.1 kB → 2.6 kB read a
               call, 2.8 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, and prepared:
  %arg2 is blocks, from arg1
  %arg3 is bound, from arg1
  %arg4 is norm, from arg1
  %arg5 is q, from arg1
  %arg6 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<128x8xf32>, %arg2: tensor<128x1xui16>, %arg3: tensor<128xf32>, %arg4: tensor<128xf32>, %arg5: tensor<128x8xi8>, %arg6: tensor<128xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg2, %arg3, %arg4, %arg5, %arg6, %arg1, %arg0, %arg0, %arg1) : (tensor<128x1xui16>, tensor<128xf32>, tensor<128xf32>, tensor<128x8xi8>, tensor<128xf32>, tensor<128x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>, tensor<128x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>)
    return %0#1, %0#2 : tensor<1x1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<2x8xf32>, %arg1: tensor<128x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>) { … }
  func.func private @hire_site(%arg0: tensor<128x1xui16>, %arg1: tensor<128xf32>, %arg2: tensor<128xf32>, %arg3: tensor<128x8xi8>, %arg4: tensor<128xf32>, %arg5: tensor<128x8xf32>, %arg6: tensor<2x8xf32>, %arg7: tensor<2x8xf32>, %arg8: tensor<128x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>) { … }
}
