// Neurons that nearly every call needs are a common path: they move to the front when weights are prepared, are
// computed always, and the predictor ranks the others only. Here the calibration saw the first eight in nine rows of
// ten.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=2), candidates=16, group=2, common=8),))

// ===== calibration
Calibration(moments={"arg1[8]": Moment(1000 * eye(8), 1000)}, activities={"arg1|transpose(1, 0)": active(*[0.9] * 8, *[0.05] * 24)})

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 1.2 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             LowRank(rank=2, bfloat16), 16 of 32 rows exact in groups of 2, 8 of
               them always (common path); 2.0 kB → 1.2 kB read a call, 2.2 kB
               added
  right?   ffn/0: approximate: neurons outside the selection count as zero
arguments of the step: arg0, and prepared:
  %arg1 is a_rows, from arg1, arg2
  %arg2 is b, from arg1, arg2
  %arg3 is common0, from arg1, arg2
  %arg4 is common1, from arg1, arg2
  %arg5 is rows0, from arg1, arg2
  %arg6 is rows1, from arg1, arg2

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<2x8xf32>, %arg2: tensor<24x2xui16>, %arg3: tensor<8x8xf32>, %arg4: tensor<8x8xf32>, %arg5: tensor<24x8xf32>, %arg6: tensor<24x8xf32>) -> tensor<1x8xf32> {
    %0 = call @hire_site(%arg1, %arg2, %arg3, %arg4, %arg5, %arg6, %arg0) : (tensor<2x8xf32>, tensor<24x2xui16>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<24x8xf32>, tensor<24x8xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    return %0 : tensor<1x8xf32>
  }
  func.func private @hire_site(%arg0: tensor<2x8xf32>, %arg1: tensor<24x2xui16>, %arg2: tensor<8x8xf32>, %arg3: tensor<8x8xf32>, %arg4: tensor<24x8xf32>, %arg5: tensor<24x8xf32>, %arg6: tensor<1x8xf32>) -> (tensor<1x8xf32>) {
    … dot_general 1x8xf32, 8x2xf32 → 1x2xf32
    … dot_general 1x2xf32, 2x24xf32 → 1x24xf32
    … top_k 12xf32 → 4xf32, 4xi32
    … gather 12x2x8xf32 → 4x2x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32  ×2
    … gather 8x8xf32 → 1x8xf32  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
    … gather 24x8xf32 → 1x8xf32  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
  }
}
