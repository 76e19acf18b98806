// Logits that are also returned keep a head dense. Whoever does not read them says so (Config(unused=…), here the first
// output): they come back filled with NaN, so that a mistake is loud, and the winner is certified.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>) -> (tensor<1x32xf32>, tensor<1x1xi32>) {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %value, %token = chlo.top_k(%z, k = 1) : tensor<1x32xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  return %z, %token : tensor<1x32xf32>, tensor<1x1xi32>
}

// ===== config
Config(unused=(r"\[0\]",), rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=4, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.6 kB read a call
  on?      head/0: top_k 8→32 float32 batch 1
             Quantized(bits=8), 4 of 32 rows exact; 1.0 kB → 0.6 kB read a call,
               0.7 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
  note     [0] is not read (Config.unused), so it comes back filled with NaN
arguments of the step: arg0, arg1, and prepared:
  %arg2 is blocks, from arg1
  %arg3 is bound, from arg1
  %arg4 is norm, from arg1
  %arg5 is q, from arg1
  %arg6 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<32x1xui16>, %arg3: tensor<32xf32>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xi8>, %arg6: tensor<32xf32>) -> (tensor<1x32xf32>, tensor<1x1xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg2, %arg3, %arg4, %arg5, %arg6, %arg1, %arg0, %arg0, %arg1) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<32x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>)
    %cst = stablehlo.constant dense<0x7FC00000> : tensor<1x32xf32>
    return %cst, %0#1, %0#2 : tensor<1x32xf32>, tensor<1x1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>) { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x8xf32>, %arg8: tensor<32x8xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>) { … }
}
