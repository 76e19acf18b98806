// A 4-bit copy has a scale for each row and block of columns, here two of four.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>) -> tensor<1x2xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x32xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=4, columns=4), candidates=8),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.5 kB read a call
  on?      head/0: top_k 8→32 float32 batch 1
             Quantized(bits=4, columns=4), 8 of 32 rows exact; 1.0 kB → 0.5 kB
               read a call, 0.3 kB added
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
arguments of the step: arg0, arg1, and prepared:
  %arg2 is q4, from arg1
  %arg3 is scale4, from arg1

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x32x4xui8>, %arg3: tensor<2x32xui16>) -> tensor<1x2xi32> {
    %0:2 = call @hire_site(%arg2, %arg3, %arg1, %arg0) : (tensor<1x32x4xui8>, tensor<2x32xui16>, tensor<32x8xf32>, tensor<1x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>)
    return %0#1 : tensor<1x2xi32>
  }
  func.func private @hire_site(%arg0: tensor<1x32x4xui8>, %arg1: tensor<2x32xui16>, %arg2: tensor<32x8xf32>, %arg3: tensor<1x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) {
    … dot_general 1x4xf32, 4x32xf32 → 1x32xf32  ×2
    … top_k 1x32xf32 → 1x8xf32, 1x8xi32
    … gather 32x8xf32 → 8x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … top_k 1x8xf32 → 1x2xf32, 1x2xi32
  }
}
