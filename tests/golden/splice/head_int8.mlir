// A tied head of which only the argmax is read: the int8 copy and its scales become arguments, six candidates are
// scored exactly from the embedding itself, and the reduction over the vocabulary is gone.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<32x8xf32>) -> tensor<1xi32> {
  %0 = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
  %1 = stablehlo.iota dim = 1 : tensor<1x32xi32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %2:2 = stablehlo.reduce(%0 init: %low), (%1 init: %zero) across dimensions = [1] : (tensor<1x32xf32>, tensor<1x32xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
   reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
    %3 = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %4 = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %5 = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    %6 = stablehlo.and %4, %5 : tensor<i1>
    %7 = stablehlo.or %3, %6 : tensor<i1>
    %8 = stablehlo.select %3, %a, %b : tensor<i1>, tensor<f32>
    %9 = stablehlo.select %7, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %8, %9 : tensor<f32>, tensor<i32>
  }
  return %2#1 : tensor<1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=6),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.6 kB read a call
  on?      head/0: argmax 8→32 float32 batch 1
             Quantized(bits=8), 6 of 32 rows exact; 1.0 kB → 0.6 kB read a call,
               0.4 kB added
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
arguments of the step: arg0, arg1, and prepared:
  %arg2 is q, from arg1
  %arg3 is scale, from arg1

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<32x8xi8>, %arg3: tensor<32xf32>) -> tensor<1xi32> {
    %0:2 = call @hire_site(%arg2, %arg3, %arg1, %arg0) : (tensor<32x8xi8>, tensor<32xf32>, tensor<32x8xf32>, tensor<1x8xf32>) -> (tensor<1xf32>, tensor<1xi32>)
    return %0#1 : tensor<1xi32>
  }
  func.func private @hire_site(%arg0: tensor<32x8xi8>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1x8xf32>) -> (tensor<1xf32>, tensor<1xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … top_k 1x32xf32 → 1x6xf32, 1x6xi32
    … gather 32x8xf32 → 6x8xf32
    … dot_general 1x8xf32, 8x6xf32 → 1x6xf32
  }
}
