// Of sorted logits a mask by rank leaves few, and only those have to be proven: the rank is drawn by a number below the p
// of top-p (as many as there are running sums that it passes), and its token is looked up. All of it is one tail.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>, %drawn: tensor<1xf32>, %many: tensor<1xi32>) -> tensor<1x1xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %minus = stablehlo.negate %z : tensor<1x32xf32>
  %places = stablehlo.iota dim = 1 : tensor<1x32xi32>
  %sorted:2 = "stablehlo.sort"(%minus, %places) <{dimension = 1 : i64, is_stable = true}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>, %i: tensor<i32>, %j: tensor<i32>):
    %less = stablehlo.compare LT, %a, %b, TOTALORDER : (tensor<f32>, tensor<f32>) -> tensor<i1>
    stablehlo.return %less : tensor<i1>
  }) : (tensor<1x32xf32>, tensor<1x32xi32>) -> (tensor<1x32xf32>, tensor<1x32xi32>)
  %ranked = stablehlo.negate %sorted#0 : tensor<1x32xf32>
  %last = stablehlo.broadcast_in_dim %many, dims = [0] : (tensor<1xi32>) -> tensor<1x32xi32>
  %out = stablehlo.compare GE, %places, %last, SIGNED : (tensor<1x32xi32>, tensor<1x32xi32>) -> tensor<1x32xi1>
  %none = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %e = stablehlo.exponential %ranked : tensor<1x32xf32>
  %left = stablehlo.select %out, %none, %e : tensor<1x32xi1>, tensor<1x32xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.reduce(%left init: %zero) applies stablehlo.add across dimensions = [1] : (tensor<1x32xf32>, tensor<f32>) -> tensor<1xf32>
  %1 = stablehlo.multiply %0, %drawn : tensor<1xf32>
  %sum = "stablehlo.reduce_window"(%left, %zero) <{padding = dense<[[0, 0], [31, 0]]> : tensor<2x2xi64>, window_dimensions = array<i64: 1, 32>}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    %c = stablehlo.add %a, %b : tensor<f32>
    stablehlo.return %c : tensor<f32>
  }) : (tensor<1x32xf32>, tensor<f32>) -> tensor<1x32xf32>
  %2 = stablehlo.broadcast_in_dim %1, dims = [0] : (tensor<1xf32>) -> tensor<1x32xf32>
  %passed = stablehlo.compare LE, %sum, %2, FLOAT : (tensor<1x32xf32>, tensor<1x32xf32>) -> tensor<1x32xi1>
  %3 = stablehlo.convert %passed : (tensor<1x32xi1>) -> tensor<1x32xi32>
  %start = stablehlo.constant dense<0> : tensor<i32>
  %4 = stablehlo.reduce(%3 init: %start) applies stablehlo.add across dimensions = [1] : (tensor<1x32xi32>, tensor<i32>) -> tensor<1xi32>
  %rank = stablehlo.reshape %4 : (tensor<1xi32>) -> tensor<1x1xi32>
  %token = "stablehlo.gather"(%sorted#1, %rank) <{dimension_numbers = #stablehlo.gather<offset_dims = [0], collapsed_slice_dims = [1], start_index_map = [1], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: 1, 1>}> : (tensor<1x32xi32>, tensor<1x1xi32>) -> tensor<1x1xi32>
  return %token : tensor<1x1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.8 kB read a call
  on?      head/0: sort 8→32 float32 batch 1
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
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1xf32>, %arg3: tensor<1xi32>, %arg4: tensor<32x1xui16>, %arg5: tensor<32xf32>, %arg6: tensor<32xf32>, %arg7: tensor<32x8xi8>, %arg8: tensor<32xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) {
    %0 = stablehlo.iota dim = 1 : tensor<1x32xi32>
    %1 = stablehlo.broadcast_in_dim %arg3, dims = [0] : (tensor<1xi32>) -> tensor<1x32xi32>
    %2 = stablehlo.compare GE, %0, %1, SIGNED : (tensor<1x32xi32>, tensor<1x32xi32>) -> tensor<1x32xi1>
    %3:2 = call @hire_site(%arg4, %arg5, %arg6, %arg7, %arg8, %arg1, %arg0, %0, %2, %arg2, %arg0, %arg1, %arg3, %arg2) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x32xi32>, tensor<1x32xi1>, tensor<1xf32>, tensor<1x8xf32>, tensor<32x8xf32>, tensor<1xi32>, tensor<1xf32>) -> (tensor<1x1xi32>, tensor<2xf32>)
    return %3#0, %3#1 : tensor<1x1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1xi32>, %arg3: tensor<1xf32>) -> tensor<1x1xi32> { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x32xi32>, %arg8: tensor<1x32xi1>, %arg9: tensor<1xf32>, %arg10: tensor<1x8xf32>, %arg11: tensor<32x8xf32>, %arg12: tensor<1xi32>, %arg13: tensor<1xf32>) -> (tensor<1x1xi32>, tensor<2xf32>) { … }
}
