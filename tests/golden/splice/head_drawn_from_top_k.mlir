// A token that is drawn from the best four is proven by itself: only the rank that it is drawn from has to be sure.
// The code down to the token is followed, and near ties among the other three cost nothing.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>, %noise: tensor<1x4xf32>) -> tensor<1x1xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %best, %tokens = chlo.top_k(%z, k = 4) : tensor<1x32xf32> -> (tensor<1x4xf32>, tensor<1x4xi32>)
  %noisy = stablehlo.add %best, %noise : tensor<1x4xf32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %at = stablehlo.iota dim = 1 : tensor<1x4xi32>
  %most:2 = stablehlo.reduce(%noisy init: %low), (%at init: %first) across dimensions = [1] : (tensor<1x4xf32>, tensor<1x4xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %c = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %d = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %e = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %f = stablehlo.and %d, %e : tensor<i1>
    %g = stablehlo.or %c, %f : tensor<i1>
    %h = stablehlo.select %c, %a, %b : tensor<i1>, tensor<f32>
    %k = stablehlo.select %g, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %h, %k : tensor<f32>, tensor<i32>
  }
  %rank = stablehlo.reshape %most#1 : (tensor<1xi32>) -> tensor<1x1xi32>
  %drawn = "stablehlo.gather"(%tokens, %rank) <{dimension_numbers = #stablehlo.gather<offset_dims = [0], collapsed_slice_dims = [1], start_index_map = [1], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: 1, 1>}> : (tensor<1x4xi32>, tensor<1x1xi32>) -> tensor<1x1xi32>
  return %drawn : tensor<1x1xi32>
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
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is blocks, from arg1
  %arg4 is bound, from arg1
  %arg5 is norm, from arg1
  %arg6 is q, from arg1
  %arg7 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x4xf32>, %arg3: tensor<32x1xui16>, %arg4: tensor<32xf32>, %arg5: tensor<32xf32>, %arg6: tensor<32x8xi8>, %arg7: tensor<32xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) {
    %0 = stablehlo.iota dim = 1 : tensor<1x4xi32>
    %1:2 = call @hire_site(%arg3, %arg4, %arg5, %arg6, %arg7, %arg1, %arg0, %arg2, %0, %arg0, %arg1, %arg2) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x4xf32>, tensor<1x4xi32>, tensor<1x8xf32>, tensor<32x8xf32>, tensor<1x4xf32>) -> (tensor<1x1xi32>, tensor<2xf32>)
    return %1#0, %1#1 : tensor<1x1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1x4xf32>) -> tensor<1x1xi32> { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x4xf32>, %arg8: tensor<1x4xi32>, %arg9: tensor<1x8xf32>, %arg10: tensor<32x8xf32>, %arg11: tensor<1x4xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) { … }
}
