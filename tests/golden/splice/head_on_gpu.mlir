// On a GPU candidates are the best of buckets: sorting all 4096 scores would cost more than it saves, so 160 buckets
// are sorted. The best row of all is always among them.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<4096x8xf32>) -> tensor<1x2xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<4096x8xf32>) -> tensor<1x4096xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x4096xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8),))

// ===== setting
platform: gpu

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.1 MB → 49.4 kB read a call
  on?      head/0: top_k 8→4096 float32 batch 1
             Quantized(bits=8), 8 of 4096 rows exact; 0.1 MB → 49.4 kB read a
               call, 49.2 kB added
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
arguments of the step: arg0, arg1, and prepared:
  %arg2 is q, from arg1
  %arg3 is scale, from arg1

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<4096x8xf32>, %arg2: tensor<4096x8xi8>, %arg3: tensor<4096xf32>) -> tensor<1x2xi32> {
    %0:2 = call @hire_site(%arg2, %arg3, %arg1, %arg0) : (tensor<4096x8xi8>, tensor<4096xf32>, tensor<4096x8xf32>, tensor<1x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>)
    return %0#1 : tensor<1x2xi32>
  }
  func.func private @hire_site(%arg0: tensor<4096x8xi8>, %arg1: tensor<4096xf32>, %arg2: tensor<4096x8xf32>, %arg3: tensor<1x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) {
    … dot_general 1x8xf32, 8x4096xf32 → 1x4096xf32
    … top_k 1x160xf32 → 1x8xf32, 1x8xi32
    … gather 4096x8xf32 → 8x8xf32
    … dot_general 1x8xf32, 1x8x8xf32 → 1x8xf32
    … top_k 1x8xf32 → 1x2xf32, 1x2xi32
  }
}
