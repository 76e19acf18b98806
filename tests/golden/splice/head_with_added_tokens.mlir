// Of an argmax over two products, a vocabulary and what was added to it, the first is proven down to the comparison that
// picks the better winner; the second stays dense. (normalize/the_best_of_two_products made it an argmax of each.)

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>, %added: tensor<32x8xf32>) -> tensor<1xi32> {
  %0 = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %1 = stablehlo.dot_general %x, %added, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/added/dot_general")
  %2 = stablehlo.concatenate %0, %1, dim = 1 : (tensor<1x32xf32>, tensor<1x32xf32>) -> tensor<1x64xf32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %first = stablehlo.constant dense<0> : tensor<i32>
  %at = stablehlo.iota dim = 1 : tensor<1x64xi32>
  %3:2 = stablehlo.reduce(%2 init: %low), (%at init: %first) across dimensions = [1] : (tensor<1x64xf32>, tensor<1x64xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
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
  return %3#1 : tensor<1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 2 sites rewritten, 2.0 kB → 1.8 kB read a call
  on?      head/0: argmax 8→32 float32 batch 1
             Quantized(bits=8), 8 of 32 rows exact; 1.0 kB → 0.8 kB read a call,
               0.7 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
  why not? head/1: argmax 8→32 float32 batch 1
             left dense: the same winners are proven by another product, to
               whose logits this one adds its own
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is blocks, from arg1
  %arg4 is bound, from arg1
  %arg5 is norm, from arg1
  %arg6 is q, from arg1
  %arg7 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<32x1xui16>, %arg4: tensor<32xf32>, %arg5: tensor<32xf32>, %arg6: tensor<32x8xi8>, %arg7: tensor<32xf32>) -> (tensor<1xi32>, tensor<2xf32>) {
    %0 = stablehlo.dot_general %arg0, %arg2, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32>
    %cst = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %1 = stablehlo.iota dim = 1 : tensor<1x32xi32>
    %2:2 = stablehlo.reduce(%0 init: %cst), (%1 init: %c) across dimensions = [1] : (tensor<1x32xf32>, tensor<1x32xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
     reducer { … }
    %c_0 = stablehlo.constant dense<32> : tensor<1xi32>
    %3 = stablehlo.add %2#1, %c_0 : tensor<1xi32>
    %4 = stablehlo.compare NE, %2#0, %2#0, FLOAT : (tensor<1xf32>, tensor<1xf32>) -> tensor<1xi1>
    %5:5 = call @hire_site(%arg3, %arg4, %arg5, %arg6, %arg7, %arg1, %arg0, %1, %2#0, %arg0, %arg1, %2#0) : (tensor<32x1xui16>, tensor<32xf32>, tensor<32xf32>, tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>, tensor<1x32xi32>, tensor<1xf32>, tensor<1x8xf32>, tensor<32x8xf32>, tensor<1xf32>) -> (tensor<1xf32>, tensor<1xi32>, tensor<1xi1>, tensor<1xi1>, tensor<2xf32>)
    %6 = stablehlo.and %4, %5#3 : tensor<1xi1>
    %7 = stablehlo.or %5#2, %6 : tensor<1xi1>
    %8 = stablehlo.select %7, %3, %5#1 : tensor<1xi1>, tensor<1xi32>
    return %8, %5#4 : tensor<1xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<1xf32>) -> (tensor<1xf32>, tensor<1xi32>, tensor<1xi1>, tensor<1xi1>) { … }
  func.func private @hire_site(%arg0: tensor<32x1xui16>, %arg1: tensor<32xf32>, %arg2: tensor<32xf32>, %arg3: tensor<32x8xi8>, %arg4: tensor<32xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x32xi32>, %arg8: tensor<1xf32>, %arg9: tensor<1x8xf32>, %arg10: tensor<32x8xf32>, %arg11: tensor<1xf32>) -> (tensor<1xf32>, tensor<1xi32>, tensor<1xi1>, tensor<1xi1>, tensor<2xf32>) { … }
}
