// Three stacked layers in a loop are one site, and the body of the loop calls one replacement. It takes the whole
// stacks and the loop's counter. Nothing new is carried, because a body may read values from outside.

// ===== input
func.func public @main(%x: tensor<1x4xf32>, %ups: tensor<3x8x4xf32>, %downs: tensor<3x8x4xf32>) -> tensor<1x4xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0:4 = stablehlo.while(%i = %zero, %h = %x, %u = %ups, %v = %downs) : tensor<i32>, tensor<1x4xf32>, tensor<3x8x4xf32>, tensor<3x8x4xf32>
  cond {
    %three = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %first = stablehlo.constant dense<0> : tensor<i32>
    %1 = stablehlo.dynamic_slice %u, %i, %first, %first, sizes = [1, 8, 4] : (tensor<3x8x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x4xf32>
    %2 = stablehlo.reshape %1 : (tensor<1x8x4xf32>) -> tensor<8x4xf32>
    %3 = stablehlo.dynamic_slice %v, %i, %first, %first, sizes = [1, 8, 4] : (tensor<3x8x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x4xf32>
    %4 = stablehlo.reshape %3 : (tensor<1x8x4xf32>) -> tensor<8x4xf32>
    %5 = stablehlo.dot_general %h, %2, contracting_dims = [1] x [1] : (tensor<1x4xf32>, tensor<8x4xf32>) -> tensor<1x8xf32> loc("layers/mlp/up/dot_general")
    %none = stablehlo.constant dense<0.0> : tensor<1x8xf32>
    %6 = stablehlo.maximum %5, %none : tensor<1x8xf32>
    %7 = stablehlo.dot_general %6, %4, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x4xf32>) -> tensor<1x4xf32> loc("layers/mlp/down/dot_general")
    %8 = stablehlo.add %h, %7 : tensor<1x4xf32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %8, %u, %v : tensor<i32>, tensor<1x4xf32>, tensor<3x8x4xf32>, tensor<3x8x4xf32>
  }
  return %0#1 : tensor<1x4xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Quantized(bits=8), candidates=2, group=2),))

// ===== report
hire_compiler: on, 1 of 1 site (3 with loops) rewritten, 0.8 kB → 0.4 kB read a
    call
  on?      ffn/0: relu 4→8 float32 batch 1 ×3
             Quantized(bits=8), 2 of 8 rows exact in groups of 2; 0.3 kB → 0.1
               kB read a call, 0.2 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is q, from arg1, arg2
  %arg4 is scale, from arg1, arg2

// ===== output
module {
  func.func public @main(%arg0: tensor<1x4xf32>, %arg1: tensor<3x8x4xf32>, %arg2: tensor<3x8x4xf32>, %arg3: tensor<3x8x4xi8>, %arg4: tensor<3x8xf32>) -> tensor<1x4xf32> {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<1x4xf32>
    cond {
      %c_1 = stablehlo.constant dense<3> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1 = func.call @hire_site(%arg3, %arg4, %arg1, %arg2, %iterArg_0, %iterArg) : (tensor<3x8x4xi8>, tensor<3x8xf32>, tensor<3x8x4xf32>, tensor<3x8x4xf32>, tensor<1x4xf32>, tensor<i32>) -> tensor<1x4xf32>
      %2 = stablehlo.add %iterArg_0, %1 : tensor<1x4xf32>
      %c_1 = stablehlo.constant dense<1> : tensor<i32>
      %3 = stablehlo.add %iterArg, %c_1 : tensor<i32>
      stablehlo.return %3, %2 : tensor<i32>, tensor<1x4xf32>
    }
    return %0#1 : tensor<1x4xf32>
  }
  func.func private @hire_site(%arg0: tensor<3x8x4xi8>, %arg1: tensor<3x8xf32>, %arg2: tensor<3x8x4xf32>, %arg3: tensor<3x8x4xf32>, %arg4: tensor<1x4xf32>, %arg5: tensor<i32>) -> (tensor<1x4xf32>) {
    … dot_general 1x4xf32, 4x8xf32 → 1x8xf32
    … top_k 4xf32 → 1xf32, 1xi32
    … gather 12x2x4xf32 → 1x2x4xf32
    … dot_general 1x4xf32, 4x2xf32 → 1x2xf32
    … gather 24x4xf32 → 1x4xf32  ×8
    … dot_general 1x1xf32, 1x4xf32 → 1x4xf32
  }
}
