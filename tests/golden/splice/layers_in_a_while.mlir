// Three stacked layers in a loop, both stacks carried through it unchanged. The body calls the replacement with the
// whole stacks and the loop's counter; nothing new is carried, because a body may read values from outside.

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
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), candidates=4, group=2),))

// ===== report
hire_compiler: 1 sites (3 with loops), 1 rewritten, 0 misses
  ffn   relu 4→8 float32 batch 1 ×3
        rewritten: LowRank(rank=1, bfloat16), 4 of 8 rows exact in groups of 2; 0.3 kB → 0.2 kB read a call, 0.1 kB added; approximate: neurons outside the selection count as zero
arguments of the step:
  %arg0 is arg0
  %arg1 is arg1
  %arg2 is arg2
  %arg3 is a of ffn|LowRank(rank=1, bfloat16)||cpu|arg1|layer(0, 3);reshape(8, 4)|arg1|layer(0, 3);reshape(8, 4)|arg2|layer(0, 3);reshape(8, 4)
  %arg4 is b of ffn|LowRank(rank=1, bfloat16)||cpu|arg1|layer(0, 3);reshape(8, 4)|arg1|layer(0, 3);reshape(8, 4)|arg2|layer(0, 3);reshape(8, 4)

// ===== output
module {
  func.func public @main(%arg0: tensor<1x4xf32>, %arg1: tensor<3x8x4xf32>, %arg2: tensor<3x8x4xf32>, %arg3: tensor<3x4x1xf32>, %arg4: tensor<3x8x1xui16>) -> tensor<1x4xf32> {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<1x4xf32>
    cond {
      %c_1 = stablehlo.constant dense<3> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1 = func.call @hire_site(%arg3, %arg4, %arg1, %arg2, %iterArg_0, %iterArg) : (tensor<3x4x1xf32>, tensor<3x8x1xui16>, tensor<3x8x4xf32>, tensor<3x8x4xf32>, tensor<1x4xf32>, tensor<i32>) -> tensor<1x4xf32>
      %2 = stablehlo.add %iterArg_0, %1 : tensor<1x4xf32>
      %c_1 = stablehlo.constant dense<1> : tensor<i32>
      %3 = stablehlo.add %iterArg, %c_1 : tensor<i32>
      stablehlo.return %3, %2 : tensor<i32>, tensor<1x4xf32>
    }
    return %0#1 : tensor<1x4xf32>
  }
  func.func private @hire_site(%arg0: tensor<3x4x1xf32>, %arg1: tensor<3x8x1xui16>, %arg2: tensor<3x8x4xf32>, %arg3: tensor<3x8x4xf32>, %arg4: tensor<1x4xf32>, %arg5: tensor<i32>) -> (tensor<1x4xf32> {jax.result_info = "result[0]"}) {
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %c = stablehlo.constant dense<4> : tensor<i32>
    %cst_0 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %0 = stablehlo.reshape %arg5 : (tensor<i32>) -> tensor<i32>
    %1 = call @dynamic_index_in_dim(%arg0, %0) : (tensor<3x4x1xf32>, tensor<i32>) -> tensor<4x1xf32>
    %2 = call @dynamic_index_in_dim_0(%arg1, %0) : (tensor<3x8x1xui16>, tensor<i32>) -> tensor<8x1xui16>
    %3 = stablehlo.dot_general %arg4, %1, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x1xf32>) -> tensor<1x1xf32>
    %4 = stablehlo.bitcast_convert %2 : (tensor<8x1xui16>) -> tensor<8x1xbf16>
    %5 = stablehlo.convert %4 : (tensor<8x1xbf16>) -> tensor<8x1xf32>
    %6 = stablehlo.transpose %5, dims = [1, 0] : (tensor<8x1xf32>) -> tensor<1x8xf32>
    %7 = stablehlo.dot_general %3, %6, contracting_dims = [1] x [0] : (tensor<1x1xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    %8 = stablehlo.reduce(%7 init: %cst_0) applies stablehlo.maximum across dimensions = [0] : (tensor<1x8xf32>, tensor<f32>) -> tensor<8xf32>
    %9 = stablehlo.reshape %8 : (tensor<8xf32>) -> tensor<4x2xf32>
    %10 = stablehlo.reduce(%9 init: %cst_0) applies stablehlo.maximum across dimensions = [1] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4xf32>
    %11:2 = stablehlo.composite "chlo.top_k" %10 {composite_attributes = {k = 2 : i64}, decomposition = @chlo.top_k.impl, version = 1 : i32} : (tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>)
    %12 = call @sort(%11#1) : (tensor<2xi32>) -> tensor<2xi32>
    %13 = stablehlo.reshape %arg2 : (tensor<3x8x4xf32>) -> tensor<12x2x4xf32>
    %14 = stablehlo.multiply %0, %c : tensor<i32>
    %15 = stablehlo.broadcast_in_dim %14, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %16 = stablehlo.add %12, %15 : tensor<2xi32>
    %17 = call @_take(%13, %16) : (tensor<12x2x4xf32>, tensor<2xi32>) -> tensor<2x2x4xf32>
    %18 = stablehlo.reshape %17 : (tensor<2x2x4xf32>) -> tensor<4x4xf32>
    %19 = stablehlo.transpose %18, dims = [1, 0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %20 = stablehlo.dot_general %arg4, %19, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x4xf32>) -> tensor<1x4xf32>
    %21 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<1x4xf32>
    %22 = stablehlo.maximum %20, %21 : tensor<1x4xf32>
    %23 = stablehlo.reshape %arg3 : (tensor<3x8x4xf32>) -> tensor<12x2x4xf32>
    %24 = stablehlo.multiply %0, %c : tensor<i32>
    %25 = stablehlo.broadcast_in_dim %24, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %26 = stablehlo.add %12, %25 : tensor<2xi32>
    %27 = call @_take(%23, %26) : (tensor<12x2x4xf32>, tensor<2xi32>) -> tensor<2x2x4xf32>
    %28 = stablehlo.reshape %27 : (tensor<2x2x4xf32>) -> tensor<4x4xf32>
    %29 = stablehlo.dot_general %22, %28, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x4xf32>) -> tensor<1x4xf32>
    return %29 : tensor<1x4xf32>
  }
  func.func private @chlo.top_k.impl(%arg0: tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>) { … }
  func.func private @dynamic_index_in_dim(%arg0: tensor<3x4x1xf32>, %arg1: tensor<i32>) -> tensor<4x1xf32> { … }
  func.func private @dynamic_index_in_dim_0(%arg0: tensor<3x8x1xui16>, %arg1: tensor<i32>) -> tensor<8x1xui16> { … }
  func.func private @sort(%arg0: tensor<2xi32>) -> tensor<2xi32> { … }
  func.func private @_take(%arg0: tensor<12x2x4xf32>, %arg1: tensor<2xi32>) -> tensor<2x2x4xf32> { … }
}
