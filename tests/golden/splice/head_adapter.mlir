// What a low-rank adapter adds to the logits is computed whole by the author's own code, and the winner of both together is
// proven.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>, %a: tensor<8x2xf32>, %b: tensor<2x32xf32>) -> tensor<1x1xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %0 = stablehlo.dot_general %x, %a, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x2xf32>) -> tensor<1x2xf32> loc("lora/a/dot_general")
  %1 = stablehlo.dot_general %0, %b, contracting_dims = [1] x [0] : (tensor<1x2xf32>, tensor<2x32xf32>) -> tensor<1x32xf32> loc("lora/b/dot_general")
  %2 = stablehlo.add %z, %1 : tensor<1x32xf32>
  %value, %token = chlo.top_k(%2, k = 1) : tensor<1x32xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  return %token : tensor<1x1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.8 kB read a call
  on?      head/0: top_k 8→32 float32 batch 1
             Quantized(bits=8), 8 of 32 rows exact; 1.0 kB → 0.8 kB read a call,
               0.7 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
  why not? nothing nonlinear stands between the two products (a low-rank
             adapter?)  [lora/a]
           a low-rank adapter (rank 2): what it adds is computed whole  [lora/b]
arguments of the step: arg0, arg1, arg2, arg3, and prepared:
  %arg4 is blocks, from arg1
  %arg5 is bound, from arg1
  %arg6 is norm, from arg1
  %arg7 is q, from arg1
  %arg8 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<8x2xf32>, %arg3: tensor<2x32xf32>, %arg4: tensor<32x1xui16>, %arg5: tensor<32xf32>, %arg6: tensor<32xf32>, %arg7: tensor<32x8xi8>, %arg8: tensor<32xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) {
    %0 = stablehlo.dot_general %arg0, %arg2, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x2xf32>) -> tensor<1x2xf32>
    %1 = stablehlo.dot_general %0, %arg3, contracting_dims = [1] x [0] : (tensor<1x2xf32>, tensor<2x32xf32>) -> tensor<1x32xf32>
    %2:3 = call @hire_site(%arg4, %arg5, %arg6, %arg7, %arg8, %arg1, %arg0, %1, %arg0, %arg1, %1) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x32xf32>, tensor<1x8xf32>, tensor<32x8xf32>, tensor<1x32xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>)
    return %2#1, %2#2 : tensor<1x1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x32xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>) { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x32xf32>, %arg8: tensor<1x8xf32>, %arg9: tensor<32x8xf32>, %arg10: tensor<1x32xf32>) -> (tensor<1x1xf32>, tensor<1x1xi32>, tensor<2xf32>) { … }
}
