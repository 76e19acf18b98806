// How often a proof held is counted in the loop over layers, and returned behind the author's results.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %ups: tensor<3x32x8xf32>, %downs: tensor<3x32x8xf32>) -> tensor<1x8xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0:2 = stablehlo.while(%i = %zero, %h = %x) : tensor<i32>, tensor<1x8xf32>
  cond {
    %three = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %1 = stablehlo.dynamic_slice %ups, %i, %zero, %zero, sizes = [1, 32, 8] : (tensor<3x32x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x8xf32>
    %2 = stablehlo.reshape %1 : (tensor<1x32x8xf32>) -> tensor<32x8xf32>
    %3 = stablehlo.dynamic_slice %downs, %i, %zero, %zero, sizes = [1, 32, 8] : (tensor<3x32x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x8xf32>
    %4 = stablehlo.reshape %3 : (tensor<1x32x8xf32>) -> tensor<32x8xf32>
    %5 = stablehlo.dot_general %h, %2, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("layers/mlp/up/dot_general")
    %none = stablehlo.constant dense<0.0> : tensor<1x32xf32>
    %6 = stablehlo.maximum %5, %none : tensor<1x32xf32>
    %7 = stablehlo.dot_general %6, %4, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("layers/mlp/down/dot_general")
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %7 : tensor<i32>, tensor<1x8xf32>
  }
  return %0#1 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact(), candidates=8, group=1),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site (3 with loops) rewritten, 6.1 kB → 4.2 kB read a
    call
  on?      ffn/0: relu 8→32 float32 batch 1 ×3
             Exact(), 8 of 32 rows exact; 2.0 kB → 1.4 kB read a call, 0.4 kB
               added
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is largest, from arg1, arg2
  %arg4 is limit0, from arg1, arg2
results of the step: the author's, and proof of ffn/0, runs of ffn/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<3x32x8xf32>, %arg2: tensor<3x32x8xf32>, %arg3: tensor<3x1xf32>, %arg4: tensor<3x32xf32>) -> (tensor<1x8xf32>, tensor<68xi32>, tensor<i32>) {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %c_0 = stablehlo.constant dense<0> : tensor<68xi32>
    %c_1 = stablehlo.constant dense<0> : tensor<i32>
    %0:4 = stablehlo.while(%iterArg = %c, %iterArg_2 = %arg0, %iterArg_3 = %c_0, %iterArg_4 = %c_1) : tensor<i32>, tensor<1x8xf32>, tensor<68xi32>, tensor<i32>
    cond {
      %c_5 = stablehlo.constant dense<3> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_5, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %c_5 = stablehlo.constant dense<1> : tensor<i32>
      %1:2 = func.call @hire_site(%arg3, %arg4, %arg1, %arg2, %iterArg_2, %iterArg, %iterArg_2, %arg1, %iterArg, %arg2) : (tensor<3x1xf32>, tensor<3x32xf32>, tensor<3x32x8xf32>, tensor<3x32x8xf32>, tensor<1x8xf32>, tensor<i32>, tensor<1x8xf32>, tensor<3x32x8xf32>, tensor<i32>, tensor<3x32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>)
      %c_6 = stablehlo.constant dense<1> : tensor<i32>
      %2 = stablehlo.add %iterArg, %c_6 : tensor<i32>
      %3 = stablehlo.add %iterArg_3, %1#1 : tensor<68xi32>
      %4 = stablehlo.add %iterArg_4, %c_5 : tensor<i32>
      stablehlo.return %2, %1#0, %3, %4 : tensor<i32>, tensor<1x8xf32>, tensor<68xi32>, tensor<i32>
    }
    return %0#1, %0#2, %0#3 : tensor<1x8xf32>, tensor<68xi32>, tensor<i32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<3x32x8xf32>, %arg2: tensor<i32>, %arg3: tensor<3x32x8xf32>) -> tensor<1x8xf32> { … }
  func.func private @hire_site(%arg0: tensor<3x1xf32>, %arg1: tensor<3x32xf32>, %arg2: tensor<3x32x8xf32>, %arg3: tensor<3x32x8xf32>, %arg4: tensor<1x8xf32>, %arg5: tensor<i32>, %arg6: tensor<1x8xf32>, %arg7: tensor<3x32x8xf32>, %arg8: tensor<i32>, %arg9: tensor<3x32x8xf32>) -> (tensor<1x8xf32>, tensor<68xi32>) { … }
}
