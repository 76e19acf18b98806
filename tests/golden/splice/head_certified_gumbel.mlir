// Sampling by Gumbel noise is an argmax of noisy logits, and is certified with them. The uniform numbers and the
// temperature do not follow from the product: they are handed to the replacement, which repeats the author's code on
// them, on numbers and on bounds.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>, %uniform: tensor<1x32xf32>, %temperature: tensor<f32>) -> tensor<1xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %u = stablehlo.log %uniform : tensor<1x32xf32>
  %v = stablehlo.negate %u : tensor<1x32xf32>
  %w = stablehlo.log %v : tensor<1x32xf32>
  %heat = stablehlo.broadcast_in_dim %temperature, dims = [] : (tensor<f32>) -> tensor<1x32xf32>
  %cooled = stablehlo.divide %z, %heat : tensor<1x32xf32>
  %noisy = stablehlo.subtract %cooled, %w : tensor<1x32xf32>
  %ids = stablehlo.iota dim = 1 : tensor<1x32xi32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %token:2 = stablehlo.reduce(%noisy init: %low), (%ids init: %first) across dimensions = [1] : (tensor<1x32xf32>, tensor<1x32xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %gt = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %eq = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %lt = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %tie = stablehlo.and %eq, %lt : tensor<i1>
    %wins = stablehlo.or %gt, %tie : tensor<i1>
    %c = stablehlo.select %gt, %a, %b : tensor<i1>, tensor<f32>
    %k = stablehlo.select %wins, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %c, %k : tensor<f32>, tensor<i32>
  }
  return %token#1 : tensor<1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.8 kB read a call
  on?      head/0: argmax 8→32 float32 batch 1
             Quantized(bits=8), 8 of 32 rows exact; 1.0 kB → 0.8 kB read a call,
               0.7 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, arg2, arg3, and prepared:
  %arg4 is blocks, from arg1
  %arg5 is bound, from arg1
  %arg6 is norm, from arg1
  %arg7 is q, from arg1
  %arg8 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x32xf32>, %arg3: tensor<f32>, %arg4: tensor<32x1xui16>, %arg5: tensor<32xf32>, %arg6: tensor<32xf32>, %arg7: tensor<32x8xi8>, %arg8: tensor<32xf32>) -> (tensor<1xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg4, %arg5, %arg6, %arg7, %arg8, %arg1, %arg3, %arg2, %arg0, %arg0, %arg1, %arg3, %arg2) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<f32>, tensor<1x32xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<32x8xf32>, tensor<f32>, tensor<1x32xf32>) -> (tensor<1xf32>, tensor<1xi32>, tensor<2xf32>)
    return %0#1, %0#2 : tensor<1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<f32>, %arg3: tensor<1x32xf32>) -> (tensor<1xf32>, tensor<1xi32>) { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<f32>, %arg7: tensor<1x32xf32>, %arg8: tensor<1x8xf32>, %arg9: tensor<1x8xf32>, %arg10: tensor<32x8xf32>, %arg11: tensor<f32>, %arg12: tensor<1x32xf32>) -> (tensor<1xf32>, tensor<1xi32>, tensor<2xf32>) { … }
}
