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
hire_compiler: on, 1 of 1 site (3 with loops) rewritten, 0.8 kB → 0.5 kB read a call
  on?      ffn/0: relu 4→8 float32 batch 1 ×3
             LowRank(rank=1, bfloat16), 4 of 8 rows exact in groups of 2; 0.3 kB
               → 0.2 kB read a call, 0.1 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  fast?    not measured: hire.compare(step, …) says it
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step:
  %arg0 is arg0
  %arg1 is arg1
  %arg2 is arg2
  %arg3 is a_rows of ffn|LowRank(rank=1, bfloat16)||cpu|arg1|layer(0, 3);reshape(8, 4)|arg1|layer(0, 3);reshape(8, 4)|arg2|layer(0, 3);reshape(8, 4)
  %arg4 is b of ffn|LowRank(rank=1, bfloat16)||cpu|arg1|layer(0, 3);reshape(8, 4)|arg1|layer(0, 3);reshape(8, 4)|arg2|layer(0, 3);reshape(8, 4)

// ===== output
module {
  func.func public @main(%arg0: tensor<1x4xf32>, %arg1: tensor<3x8x4xf32>, %arg2: tensor<3x8x4xf32>, %arg3: tensor<3x1x4xf32>, %arg4: tensor<3x8x1xui16>) -> tensor<1x4xf32> {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<1x4xf32>
    cond {
      %c_1 = stablehlo.constant dense<3> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1 = func.call @hire_site(%arg3, %arg4, %arg1, %arg2, %iterArg_0, %iterArg) : (tensor<3x1x4xf32>, tensor<3x8x1xui16>, tensor<3x8x4xf32>, tensor<3x8x4xf32>, tensor<1x4xf32>, tensor<i32>) -> tensor<1x4xf32>
      %2 = stablehlo.add %iterArg_0, %1 : tensor<1x4xf32>
      %c_1 = stablehlo.constant dense<1> : tensor<i32>
      %3 = stablehlo.add %iterArg, %c_1 : tensor<i32>
      stablehlo.return %3, %2 : tensor<i32>, tensor<1x4xf32>
    }
    return %0#1 : tensor<1x4xf32>
  }
  func.func private @hire_site(%arg0: tensor<3x1x4xf32>, %arg1: tensor<3x8x1xui16>, %arg2: tensor<3x8x4xf32>, %arg3: tensor<3x8x4xf32>, %arg4: tensor<1x4xf32>, %arg5: tensor<i32>) -> (tensor<1x4xf32> {jax.result_info = "result[0]"}) {
    %cst = stablehlo.constant dense<1.000000e+00> : tensor<f32>
    %c = stablehlo.constant dense<0> : tensor<i32>
    %c_0 = stablehlo.constant dense<2> : tensor<i32>
    %cst_1 = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %c_2 = stablehlo.constant dense<4> : tensor<i32>
    %cst_3 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %0 = stablehlo.reshape %arg5 : (tensor<i32>) -> tensor<i32>
    %1 = call @dynamic_index_in_dim(%arg0, %0) : (tensor<3x1x4xf32>, tensor<i32>) -> tensor<1x4xf32>
    %2 = call @dynamic_index_in_dim_0(%arg1, %0) : (tensor<3x8x1xui16>, tensor<i32>) -> tensor<8x1xui16>
    %3 = stablehlo.transpose %1, dims = [1, 0] : (tensor<1x4xf32>) -> tensor<4x1xf32>
    %4 = stablehlo.dot_general %arg4, %3, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x1xf32>) -> tensor<1x1xf32>
    %5 = stablehlo.bitcast_convert %2 : (tensor<8x1xui16>) -> tensor<8x1xbf16>
    %6 = stablehlo.convert %5 : (tensor<8x1xbf16>) -> tensor<8x1xf32>
    %7 = stablehlo.transpose %6, dims = [1, 0] : (tensor<8x1xf32>) -> tensor<1x8xf32>
    %8 = stablehlo.dot_general %4, %7, contracting_dims = [1] x [0] : (tensor<1x1xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    %9 = stablehlo.reduce(%8 init: %cst_3) applies stablehlo.maximum across dimensions = [0] : (tensor<1x8xf32>, tensor<f32>) -> tensor<8xf32>
    %10 = stablehlo.reshape %9 : (tensor<8xf32>) -> tensor<4x2xf32>
    %11 = stablehlo.reduce(%10 init: %cst_3) applies stablehlo.maximum across dimensions = [1] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4xf32>
    %12:2 = stablehlo.composite "chlo.top_k" %11 {composite_attributes = {k = 2 : i64}, decomposition = @chlo.top_k.impl, version = 1 : i32} : (tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>)
    %13 = call @sort(%12#1) : (tensor<2xi32>) -> tensor<2xi32>
    %14 = stablehlo.multiply %0, %c_2 : tensor<i32>
    %15 = stablehlo.broadcast_in_dim %14, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %16 = stablehlo.add %13, %15 : tensor<2xi32>
    %17 = stablehlo.reshape %arg2 : (tensor<3x8x4xf32>) -> tensor<24x4xf32>
    %18 = stablehlo.reshape %17 : (tensor<24x4xf32>) -> tensor<12x2x4xf32>
    %19 = call @_take(%18, %16) : (tensor<12x2x4xf32>, tensor<2xi32>) -> tensor<2x2x4xf32>
    %20 = stablehlo.reshape %19 : (tensor<2x2x4xf32>) -> tensor<4x4xf32>
    %21 = stablehlo.transpose %20, dims = [1, 0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %22 = stablehlo.dot_general %arg4, %21, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x4xf32>) -> tensor<1x4xf32>
    %23 = stablehlo.optimization_barrier %22 : tensor<1x4xf32>
    %24 = stablehlo.broadcast_in_dim %cst_1, dims = [] : (tensor<f32>) -> tensor<1x4xf32>
    %25 = stablehlo.maximum %23, %24 : tensor<1x4xf32>
    %26 = stablehlo.multiply %0, %c_2 : tensor<i32>
    %27 = stablehlo.broadcast_in_dim %26, dims = [] : (tensor<i32>) -> tensor<2xi32>
    %28 = stablehlo.add %13, %27 : tensor<2xi32>
    %29 = stablehlo.reshape %arg3 : (tensor<3x8x4xf32>) -> tensor<24x4xf32>
    %30 = stablehlo.broadcast_in_dim %28, dims = [0] : (tensor<2xi32>) -> tensor<2x1xi32>
    %31 = stablehlo.broadcast_in_dim %c_0, dims = [] : (tensor<i32>) -> tensor<2x1xi32>
    %32 = stablehlo.multiply %30, %31 : tensor<2x1xi32>
    %33 = stablehlo.iota dim = 0 : tensor<2xi32>
    %34 = stablehlo.broadcast_in_dim %33, dims = [1] : (tensor<2xi32>) -> tensor<1x2xi32>
    %35 = stablehlo.broadcast_in_dim %32, dims = [0, 1] : (tensor<2x1xi32>) -> tensor<2x2xi32>
    %36 = stablehlo.broadcast_in_dim %34, dims = [0, 1] : (tensor<1x2xi32>) -> tensor<2x2xi32>
    %37 = stablehlo.add %35, %36 : tensor<2x2xi32>
    %38 = stablehlo.reshape %37 : (tensor<2x2xi32>) -> tensor<4xi32>
    %39 = call @_pad(%38, %c) : (tensor<4xi32>, tensor<i32>) -> tensor<8xi32>
    %40 = stablehlo.reshape %25 : (tensor<1x4xf32>) -> tensor<4xf32>
    %41 = call @_pad_1(%40, %c) : (tensor<4xf32>, tensor<i32>) -> tensor<8xf32>
    %42 = stablehlo.reshape %39 : (tensor<8xi32>) -> tensor<1x8xi32>
    %43 = stablehlo.transpose %42, dims = [1, 0] : (tensor<1x8xi32>) -> tensor<8x1xi32>
    %44 = stablehlo.reshape %41 : (tensor<8xf32>) -> tensor<1x8xf32>
    %45 = stablehlo.transpose %44, dims = [1, 0] : (tensor<1x8xf32>) -> tensor<8x1xf32>
    %46 = stablehlo.broadcast_in_dim %cst_1, dims = [] : (tensor<f32>) -> tensor<1x4xf32>
    %47 = stablehlo.slice %43 [0:1, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %48 = stablehlo.reshape %47 : (tensor<1x1xi32>) -> tensor<1xi32>
    %49 = stablehlo.slice %45 [0:1, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %50 = stablehlo.reshape %49 : (tensor<1x1xf32>) -> tensor<1xf32>
    %51 = call @_take_2(%29, %48) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %52 = stablehlo.broadcast_in_dim %50, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %53 = stablehlo.broadcast_in_dim %52, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %54 = stablehlo.multiply %51, %53 : tensor<1x4xf32>
    %55 = stablehlo.add %46, %54 : tensor<1x4xf32>
    %56 = stablehlo.slice %43 [1:2, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %57 = stablehlo.reshape %56 : (tensor<1x1xi32>) -> tensor<1xi32>
    %58 = stablehlo.slice %45 [1:2, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %59 = stablehlo.reshape %58 : (tensor<1x1xf32>) -> tensor<1xf32>
    %60 = call @_take_2(%29, %57) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %61 = stablehlo.broadcast_in_dim %59, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %62 = stablehlo.broadcast_in_dim %61, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %63 = stablehlo.multiply %60, %62 : tensor<1x4xf32>
    %64 = stablehlo.add %55, %63 : tensor<1x4xf32>
    %65 = stablehlo.slice %43 [2:3, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %66 = stablehlo.reshape %65 : (tensor<1x1xi32>) -> tensor<1xi32>
    %67 = stablehlo.slice %45 [2:3, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %68 = stablehlo.reshape %67 : (tensor<1x1xf32>) -> tensor<1xf32>
    %69 = call @_take_2(%29, %66) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %70 = stablehlo.broadcast_in_dim %68, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %71 = stablehlo.broadcast_in_dim %70, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %72 = stablehlo.multiply %69, %71 : tensor<1x4xf32>
    %73 = stablehlo.add %64, %72 : tensor<1x4xf32>
    %74 = stablehlo.slice %43 [3:4, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %75 = stablehlo.reshape %74 : (tensor<1x1xi32>) -> tensor<1xi32>
    %76 = stablehlo.slice %45 [3:4, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %77 = stablehlo.reshape %76 : (tensor<1x1xf32>) -> tensor<1xf32>
    %78 = call @_take_2(%29, %75) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %79 = stablehlo.broadcast_in_dim %77, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %80 = stablehlo.broadcast_in_dim %79, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %81 = stablehlo.multiply %78, %80 : tensor<1x4xf32>
    %82 = stablehlo.add %73, %81 : tensor<1x4xf32>
    %83 = stablehlo.slice %43 [4:5, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %84 = stablehlo.reshape %83 : (tensor<1x1xi32>) -> tensor<1xi32>
    %85 = stablehlo.slice %45 [4:5, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %86 = stablehlo.reshape %85 : (tensor<1x1xf32>) -> tensor<1xf32>
    %87 = call @_take_2(%29, %84) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %88 = stablehlo.broadcast_in_dim %86, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %89 = stablehlo.broadcast_in_dim %88, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %90 = stablehlo.multiply %87, %89 : tensor<1x4xf32>
    %91 = stablehlo.add %82, %90 : tensor<1x4xf32>
    %92 = stablehlo.slice %43 [5:6, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %93 = stablehlo.reshape %92 : (tensor<1x1xi32>) -> tensor<1xi32>
    %94 = stablehlo.slice %45 [5:6, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %95 = stablehlo.reshape %94 : (tensor<1x1xf32>) -> tensor<1xf32>
    %96 = call @_take_2(%29, %93) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %97 = stablehlo.broadcast_in_dim %95, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %98 = stablehlo.broadcast_in_dim %97, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %99 = stablehlo.multiply %96, %98 : tensor<1x4xf32>
    %100 = stablehlo.add %91, %99 : tensor<1x4xf32>
    %101 = stablehlo.slice %43 [6:7, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %102 = stablehlo.reshape %101 : (tensor<1x1xi32>) -> tensor<1xi32>
    %103 = stablehlo.slice %45 [6:7, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %104 = stablehlo.reshape %103 : (tensor<1x1xf32>) -> tensor<1xf32>
    %105 = call @_take_2(%29, %102) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %106 = stablehlo.broadcast_in_dim %104, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %107 = stablehlo.broadcast_in_dim %106, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %108 = stablehlo.multiply %105, %107 : tensor<1x4xf32>
    %109 = stablehlo.add %100, %108 : tensor<1x4xf32>
    %110 = stablehlo.slice %43 [7:8, 0:1] : (tensor<8x1xi32>) -> tensor<1x1xi32>
    %111 = stablehlo.reshape %110 : (tensor<1x1xi32>) -> tensor<1xi32>
    %112 = stablehlo.slice %45 [7:8, 0:1] : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %113 = stablehlo.reshape %112 : (tensor<1x1xf32>) -> tensor<1xf32>
    %114 = call @_take_2(%29, %111) : (tensor<24x4xf32>, tensor<1xi32>) -> tensor<1x4xf32>
    %115 = stablehlo.broadcast_in_dim %113, dims = [0] : (tensor<1xf32>) -> tensor<1x1xf32>
    %116 = stablehlo.broadcast_in_dim %115, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x4xf32>
    %117 = stablehlo.multiply %114, %116 : tensor<1x4xf32>
    %118 = stablehlo.add %109, %117 : tensor<1x4xf32>
    %119 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<1x1xf32>
    %120 = stablehlo.dot_general %119, %118, contracting_dims = [1] x [0] : (tensor<1x1xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    return %120 : tensor<1x4xf32>
  }
  func.func private @chlo.top_k.impl(%arg0: tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>) { … }
  func.func private @dynamic_index_in_dim(%arg0: tensor<3x1x4xf32>, %arg1: tensor<i32>) -> tensor<1x4xf32> { … }
  func.func private @dynamic_index_in_dim_0(%arg0: tensor<3x8x1xui16>, %arg1: tensor<i32>) -> tensor<8x1xui16> { … }
  func.func private @sort(%arg0: tensor<2xi32>) -> tensor<2xi32> { … }
  func.func private @_take(%arg0: tensor<12x2x4xf32>, %arg1: tensor<2xi32>) -> tensor<2x2x4xf32> { … }
  func.func private @_pad(%arg0: tensor<4xi32>, %arg1: tensor<i32>) -> tensor<8xi32> { … }
  func.func private @_pad_1(%arg0: tensor<4xf32>, %arg1: tensor<i32>) -> tensor<8xf32> { … }
  func.func private @_take_2(%arg0: tensor<24x4xf32>, %arg1: tensor<1xi32>) -> tensor<1x4xf32> { … }
}
