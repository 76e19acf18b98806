// A relu block with a rank-1 predictor: the two products disappear into one call, and with them the argument that
// only they read. The up-projection's rows are laid out anew (one row per neuron); the down-projection already
// stands by neurons and is read from its own argument.

// ===== input
func.func public @main(%x: tensor<2x4xf32>, %up: tensor<4x8xf32>, %down: tensor<8x4xf32>) -> tensor<2x4xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x8xf32>) -> tensor<2x8xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x8xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<2x8xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x4xf32>) -> tensor<2x4xf32> loc("mlp/down/dot_general")
  return %2 : tensor<2x4xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1, dtype="float32"), density=0.5, group=2),))

// ===== setting
bodies: whole

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 0.3 kB → 0.2 kB read a call
  on?      ffn/0: relu 4→8 float32 batch 2
             LowRank(rank=1, float32), 4 of 8 rows exact in groups of 2; 0.3 kB
               → 0.2 kB read a call, 0.2 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg2, and prepared:
  %arg2 is a_rows, from arg1, arg2
  %arg3 is b, from arg1, arg2
  %arg4 is rows0, from arg1, arg2

// ===== output
module {
  func.func public @main(%arg0: tensor<2x4xf32>, %arg1: tensor<8x4xf32>, %arg2: tensor<1x4xf32>, %arg3: tensor<8x1xf32>, %arg4: tensor<8x4xf32>) -> tensor<2x4xf32> {
    %0 = call @hire_site(%arg2, %arg3, %arg4, %arg1, %arg0) : (tensor<1x4xf32>, tensor<8x1xf32>, tensor<8x4xf32>, tensor<8x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    return %0 : tensor<2x4xf32>
  }
  func.func private @hire_site(%arg0: tensor<1x4xf32>, %arg1: tensor<8x1xf32>, %arg2: tensor<8x4xf32>, %arg3: tensor<8x4xf32>, %arg4: tensor<2x4xf32>) -> (tensor<2x4xf32>) {
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %cst_0 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %0 = stablehlo.transpose %arg0, dims = [1, 0] : (tensor<1x4xf32>) -> tensor<4x1xf32>
    %1 = stablehlo.dot_general %arg4, %0, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x1xf32>) -> tensor<2x1xf32>
    %2 = stablehlo.transpose %arg1, dims = [1, 0] : (tensor<8x1xf32>) -> tensor<1x8xf32>
    %3 = stablehlo.dot_general %1, %2, contracting_dims = [1] x [0] : (tensor<2x1xf32>, tensor<1x8xf32>) -> tensor<2x8xf32>
    %4 = stablehlo.reduce(%3 init: %cst_0) applies stablehlo.maximum across dimensions = [0] : (tensor<2x8xf32>, tensor<f32>) -> tensor<8xf32>
    %5 = stablehlo.reshape %4 : (tensor<8xf32>) -> tensor<4x2xf32>
    %6 = stablehlo.reduce(%5 init: %cst_0) applies stablehlo.maximum across dimensions = [1] : (tensor<4x2xf32>, tensor<f32>) -> tensor<4xf32>
    %7:2 = stablehlo.composite "chlo.top_k" %6 {composite_attributes = {k = 2 : i64}, decomposition = @chlo.top_k.impl, version = 1 : i32} : (tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>)
    %8 = call @sort(%7#1) : (tensor<2xi32>) -> tensor<2xi32>
    %9 = stablehlo.reshape %arg2 : (tensor<8x4xf32>) -> tensor<4x2x4xf32>
    %10 = call @_take(%9, %8) : (tensor<4x2x4xf32>, tensor<2xi32>) -> tensor<2x2x4xf32>
    %11 = stablehlo.reshape %10 : (tensor<2x2x4xf32>) -> tensor<4x4xf32>
    %12 = stablehlo.transpose %11, dims = [1, 0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %13 = stablehlo.dot_general %arg4, %12, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32>
    %14 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<2x4xf32>
    %15 = stablehlo.maximum %13, %14 : tensor<2x4xf32>
    %16 = stablehlo.reshape %arg3 : (tensor<8x4xf32>) -> tensor<4x2x4xf32>
    %17 = call @_take(%16, %8) : (tensor<4x2x4xf32>, tensor<2xi32>) -> tensor<2x2x4xf32>
    %18 = stablehlo.reshape %17 : (tensor<2x2x4xf32>) -> tensor<4x4xf32>
    %19 = stablehlo.dot_general %15, %18, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32>
    return %19 : tensor<2x4xf32>
  }
  func.func private @chlo.top_k.impl(%arg0: tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>) { … }
  func.func private @sort(%arg0: tensor<2xi32>) -> tensor<2xi32> { … }
  func.func private @_take(%arg0: tensor<4x2x4xf32>, %arg1: tensor<2xi32>) -> tensor<2x2x4xf32> { … }
}
