// In a loop on the CPU bfloat16 rows are read as bits (ui16) of the caller's own stacks: XLA would copy them to convert.

// ===== input
func.func public @main(%x: tensor<1x8xbf16>, %ups: tensor<3x32x8xbf16>, %downs: tensor<3x32x8xbf16>) -> tensor<1x8xbf16> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0:2 = stablehlo.while(%i = %zero, %h = %x) : tensor<i32>, tensor<1x8xbf16>
  cond {
    %three = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %1 = stablehlo.dynamic_slice %ups, %i, %zero, %zero, sizes = [1, 32, 8] : (tensor<3x32x8xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x8xbf16>
    %2 = stablehlo.reshape %1 : (tensor<1x32x8xbf16>) -> tensor<32x8xbf16>
    %3 = stablehlo.dynamic_slice %downs, %i, %zero, %zero, sizes = [1, 32, 8] : (tensor<3x32x8xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x8xbf16>
    %4 = stablehlo.reshape %3 : (tensor<1x32x8xbf16>) -> tensor<32x8xbf16>
    %5 = stablehlo.dot_general %h, %2, contracting_dims = [1] x [1] : (tensor<1x8xbf16>, tensor<32x8xbf16>) -> tensor<1x32xbf16> loc("layers/mlp/up/dot_general")
    %none = stablehlo.constant dense<0.0> : tensor<1x32xbf16>
    %6 = stablehlo.maximum %5, %none : tensor<1x32xbf16>
    %7 = stablehlo.dot_general %6, %4, contracting_dims = [1] x [0] : (tensor<1x32xbf16>, tensor<32x8xbf16>) -> tensor<1x8xbf16> loc("layers/mlp/down/dot_general")
    %8 = stablehlo.add %h, %7 : tensor<1x8xbf16>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %8 : tensor<i32>, tensor<1x8xbf16>
  }
  return %0#1 : tensor<1x8xbf16>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Quantized(bits=8), candidates=8, group=2),))

// ===== report
hire_compiler: on, 1 of 1 site (3 with loops) rewritten, 3.1 kB → 1.9 kB read a
    call
  on?      ffn/0: relu 8→32 bfloat16 batch 1 ×3
             Quantized(bits=8), 8 of 32 rows exact in groups of 2; 1.0 kB → 0.6
               kB read a call, 1.2 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
arguments of the step: arg0, and prepared:
  %arg1 is q, from arg1, arg2
  %arg2 is rows0, the bits of arg1
  %arg3 is rows1, the bits of arg2
  %arg4 is scale, from arg1, arg2

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xbf16>, %arg1: tensor<3x32x8xi8>, %arg2: tensor<3x32x8xui16>, %arg3: tensor<3x32x8xui16>, %arg4: tensor<3x32xf32>) -> tensor<1x8xbf16> {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<1x8xbf16>
    cond {
      %c_1 = stablehlo.constant dense<3> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1 = func.call @hire_site(%arg1, %arg2, %arg3, %arg4, %iterArg_0, %iterArg) : (tensor<3x32x8xi8>, tensor<3x32x8xui16>, tensor<3x32x8xui16>, tensor<3x32xf32>, tensor<1x8xbf16>, tensor<i32>) -> tensor<1x8xbf16>
      %2 = stablehlo.add %iterArg_0, %1 : tensor<1x8xbf16>
      %c_1 = stablehlo.constant dense<1> : tensor<i32>
      %3 = stablehlo.add %iterArg, %c_1 : tensor<i32>
      stablehlo.return %3, %2 : tensor<i32>, tensor<1x8xbf16>
    }
    return %0#1 : tensor<1x8xbf16>
  }
  func.func private @hire_site(%arg0: tensor<3x32x8xi8>, %arg1: tensor<3x32x8xui16>, %arg2: tensor<3x32x8xui16>, %arg3: tensor<3x32xf32>, %arg4: tensor<1x8xbf16>, %arg5: tensor<i32>) -> (tensor<1x8xbf16>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … top_k 16xf32 → 4xf32, 4xi32
    … gather 48x2x8xui16 → 4x2x8xui16
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … gather 96x8xui16 → 1x8xui16  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
  }
}
