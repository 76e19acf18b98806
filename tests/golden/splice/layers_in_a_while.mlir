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
    %cst = stablehlo.constant dense<1.000000e+00> : tensor<f32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %c_0 = stablehlo.constant dense<2> : tensor<i32>
    %cst_1 = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %c_2 = stablehlo.constant dense<4> : tensor<i32>
    %cst_3 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %0 = stablehlo.reshape %arg5 : (tensor<i32>) -> tensor<i32>
    %1 = call @dynamic_index_in_dim(%arg0, %0) : (tensor<3x4x1xf32>, tensor<i32>) -> tensor<4x1xf32>
    %2 = call @dynamic_index_in_dim_0(%arg1, %0) : (tensor<3x8x1xui16>, tensor<i32>) -> tensor<8x1xui16>
    %3 = stablehlo.dot_general %arg4, %1, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x1xf32>) -> tensor<1x1xf32>
    %4 = stablehlo.bitcast_convert %2 : (tensor<8x1xui16>) -> tensor<8x1xbf16>
    %5 = stablehlo.convert %4 : (tensor<8x1xbf16>) -> tensor<8x1xf32>
    %6 = stablehlo.transpose %5, dims = [1, 0] : (tensor<8x1xf32>) -> tensor<1x8xf32>
    %7 = stablehlo.dot_general %3, %6, contracting_dims = [1] x [0] : (tensor<1x1xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    %8 = stablehlo.reduce(%7 init: %cst_3) applies stablehlo.maximum across dimensions = [0] : (tensor<1x8xf32>, tensor<f32>) -> tensor<8xf32>
    %9 = stablehlo.reshape %8 : (tensor<8xf32>) -> tensor<4x2xf32>
    %10 = stablehlo.reduce(%9 init: %cst_3) applies stablehlo.maximum across dimensions = [1] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4xf32>
    %11:2 = stablehlo.composite "chlo.top_k" %10 {composite_attributes = {k = 2 : i64}, decomposition = @chlo.top_k.impl, version = 1 : i32} : (tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>)
    %12 = call @sort(%11#1) : (tensor<2xi32>) -> tensor<2xi32>
    %13 = stablehlo.multiply %0, %c_2 : tensor<i32>
    %14 = stablehlo.broadcast_in_dim %13, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %15 = stablehlo.add %12, %14 : tensor<2xi32>
    %16 = stablehlo.reshape %arg2 : (tensor<3x8x4xf32>) -> tensor<24x4xf32>
    %17 = stablehlo.reshape %16 : (tensor<24x4xf32>) -> tensor<12x2x4xf32>
    %18 = call @_take(%17, %15) : (tensor<12x2x4xf32>, tensor<2xi32>) -> tensor<2x2x4xf32>
    %19 = stablehlo.reshape %18 : (tensor<2x2x4xf32>) -> tensor<4x4xf32>
    %20 = stablehlo.transpose %19, dims = [1, 0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %21 = stablehlo.dot_general %arg4, %20, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x4xf32>) -> tensor<1x4xf32>
    %22 = stablehlo.optimization_barrier %21 : tensor<1x4xf32>
    %23 = stablehlo.broadcast_in_dim %cst_1, dims = [] : (tensor<f32>) -> tensor<1x4xf32>
    %24 = stablehlo.maximum %22, %23 : tensor<1x4xf32>
    %25 = stablehlo.multiply %0, %c_2 : tensor<i32>
    %26 = stablehlo.broadcast_in_dim %25, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %27 = stablehlo.add %12, %26 : tensor<2xi32>
    %28 = stablehlo.reshape %arg3 : (tensor<3x8x4xf32>) -> tensor<24x4xf32>
    %29 = stablehlo.broadcast_in_dim %27, dims = [0] : (tensor<2xi32>) -> tensor<2x1xi32>
    %30 = stablehlo.broadcast_in_dim %c_0, dims = [] : (tensor<i32>) -> tensor<2x1xi32>
    %31 = stablehlo.multiply %29, %30 : tensor<2x1xi32>
    %32 = stablehlo.iota dim = 0 : tensor<2xi32>
    %33 = stablehlo.broadcast_in_dim %32, dims = [1] : (tensor<2xi32>) -> tensor<1x2xi32>
    %34 = stablehlo.broadcast_in_dim %31, dims = [0, 1] : (tensor<2x1xi32>) -> tensor<2x2xi32>
    %35 = stablehlo.broadcast_in_dim %33, dims = [0, 1] : (tensor<1x2xi32>) -> tensor<2x2xi32>
    %36 = stablehlo.add %34, %35 : tensor<2x2xi32>
    %37 = stablehlo.reshape %36 : (tensor<2x2xi32>) -> tensor<4xi32>
    %38 = call @_pad(%37, %c) : (tensor<4xi32>, tensor<i32>) -> tensor<8xi32>
    %39 = stablehlo.reshape %38 : (tensor<8xi32>) -> tensor<1x8xi32>
    %40 = call @_pad_1(%24, %c) : (tensor<1x4xf32>, tensor<i32>) -> tensor<1x8xf32>
    %41 = stablehlo.broadcast_in_dim %cst_1, dims = [] : (tensor<f32>) -> tensor<1x4xf32>
    %42 = stablehlo.slice %39 [0:1, 0:1] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %43 = stablehlo.reshape %42 : (tensor<1x1xi32>) -> tensor<1xi32>
    %44 = call @_take_2(%28, %43) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %45 = stablehlo.slice %40 [0:1, 0:1] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %46 = stablehlo.reshape %45 : (tensor<1x1xf32>) -> tensor<1xf32>
    %47 = stablehlo.broadcast_in_dim %46, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %48 = stablehlo.broadcast_in_dim %47, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %49 = stablehlo.multiply %44, %48 : tensor<1x4xf32>
    %50 = stablehlo.add %41, %49 : tensor<1x4xf32>
    %51 = stablehlo.slice %39 [0:1, 1:2] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %52 = stablehlo.reshape %51 : (tensor<1x1xi32>) -> tensor<1xi32>
    %53 = call @_take_2(%28, %52) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %54 = stablehlo.slice %40 [0:1, 1:2] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %55 = stablehlo.reshape %54 : (tensor<1x1xf32>) -> tensor<1xf32>
    %56 = stablehlo.broadcast_in_dim %55, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %57 = stablehlo.broadcast_in_dim %56, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %58 = stablehlo.multiply %53, %57 : tensor<1x4xf32>
    %59 = stablehlo.add %50, %58 : tensor<1x4xf32>
    %60 = stablehlo.slice %39 [0:1, 2:3] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %61 = stablehlo.reshape %60 : (tensor<1x1xi32>) -> tensor<1xi32>
    %62 = call @_take_2(%28, %61) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %63 = stablehlo.slice %40 [0:1, 2:3] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %64 = stablehlo.reshape %63 : (tensor<1x1xf32>) -> tensor<1xf32>
    %65 = stablehlo.broadcast_in_dim %64, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %66 = stablehlo.broadcast_in_dim %65, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %67 = stablehlo.multiply %62, %66 : tensor<1x4xf32>
    %68 = stablehlo.add %59, %67 : tensor<1x4xf32>
    %69 = stablehlo.slice %39 [0:1, 3:4] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %70 = stablehlo.reshape %69 : (tensor<1x1xi32>) -> tensor<1xi32>
    %71 = call @_take_2(%28, %70) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %72 = stablehlo.slice %40 [0:1, 3:4] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %73 = stablehlo.reshape %72 : (tensor<1x1xf32>) -> tensor<1xf32>
    %74 = stablehlo.broadcast_in_dim %73, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %75 = stablehlo.broadcast_in_dim %74, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %76 = stablehlo.multiply %71, %75 : tensor<1x4xf32>
    %77 = stablehlo.add %68, %76 : tensor<1x4xf32>
    %78 = stablehlo.slice %39 [0:1, 4:5] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %79 = stablehlo.reshape %78 : (tensor<1x1xi32>) -> tensor<1xi32>
    %80 = call @_take_2(%28, %79) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %81 = stablehlo.slice %40 [0:1, 4:5] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %82 = stablehlo.reshape %81 : (tensor<1x1xf32>) -> tensor<1xf32>
    %83 = stablehlo.broadcast_in_dim %82, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %84 = stablehlo.broadcast_in_dim %83, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %85 = stablehlo.multiply %80, %84 : tensor<1x4xf32>
    %86 = stablehlo.add %77, %85 : tensor<1x4xf32>
    %87 = stablehlo.slice %39 [0:1, 5:6] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %88 = stablehlo.reshape %87 : (tensor<1x1xi32>) -> tensor<1xi32>
    %89 = call @_take_2(%28, %88) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %90 = stablehlo.slice %40 [0:1, 5:6] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %91 = stablehlo.reshape %90 : (tensor<1x1xf32>) -> tensor<1xf32>
    %92 = stablehlo.broadcast_in_dim %91, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %93 = stablehlo.broadcast_in_dim %92, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %94 = stablehlo.multiply %89, %93 : tensor<1x4xf32>
    %95 = stablehlo.add %86, %94 : tensor<1x4xf32>
    %96 = stablehlo.slice %39 [0:1, 6:7] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %97 = stablehlo.reshape %96 : (tensor<1x1xi32>) -> tensor<1xi32>
    %98 = call @_take_2(%28, %97) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %99 = stablehlo.slice %40 [0:1, 6:7] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %100 = stablehlo.reshape %99 : (tensor<1x1xf32>) -> tensor<1xf32>
    %101 = stablehlo.broadcast_in_dim %100, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %102 = stablehlo.broadcast_in_dim %101, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %103 = stablehlo.multiply %98, %102 : tensor<1x4xf32>
    %104 = stablehlo.add %95, %103 : tensor<1x4xf32>
    %105 = stablehlo.slice %39 [0:1, 7:8] : (tensor<1x8xi32>) -> tensor<1x1xi32>
    %106 = stablehlo.reshape %105 : (tensor<1x1xi32>) -> tensor<1xi32>
    %107 = call @_take_2(%28, %106) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %108 = stablehlo.slice %40 [0:1, 7:8] : (tensor<1x8xf32>) -> tensor<1x1xf32>
    %109 = stablehlo.reshape %108 : (tensor<1x1xf32>) -> tensor<1xf32>
    %110 = stablehlo.broadcast_in_dim %109, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %111 = stablehlo.broadcast_in_dim %110, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %112 = stablehlo.multiply %107, %111 : tensor<1x4xf32>
    %113 = stablehlo.add %104, %112 : tensor<1x4xf32>
    %114 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<1x1xf32>
    %115 = stablehlo.dot_general %114, %113, contracting_dims = [1] x [0] : (tensor<1x1xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    return %115 : tensor<1x4xf32>
  }
  func.func private @chlo.top_k.impl(%arg0: tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>) { … }
  func.func private @dynamic_index_in_dim(%arg0: tensor<3x4x1xf32>, %arg1: tensor<i32>) -> tensor<4x1xf32> { … }
  func.func private @dynamic_index_in_dim_0(%arg0: tensor<3x8x1xui16>, %arg1: tensor<i32>) -> tensor<8x1xui16> { … }
  func.func private @sort(%arg0: tensor<2xi32>) -> tensor<2xi32> { … }
  func.func private @_take(%arg0: tensor<12x2x4xf32>, %arg1: tensor<2xi32>) -> tensor<2x2x4xf32> { … }
  func.func private @_pad(%arg0: tensor<4xi32>, %arg1: tensor<i32>) -> tensor<8xi32> { … }
  func.func private @_pad_1(%arg0: tensor<1x4xf32>, %arg1: tensor<i32>) -> tensor<1x8xf32> { … }
  func.func private @_take_2(%arg0: tensor<24x4xf32>, %arg1: tensor<1xi32>) -> tensor<1x4xf32> { … }
}
