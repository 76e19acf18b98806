// An adapter on the last product of a block is a last product itself: the chosen rows of both matrices are read together.
// Its second matrix stays the author's.

// ===== input
func.func public @main(%x: tensor<1x32xf32>, %up: tensor<32x64xf32>, %down: tensor<64x32xf32>, %a: tensor<64x2xf32>, %b: tensor<2x32xf32>) -> tensor<1x32xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x64xf32>) -> tensor<1x64xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x64xf32>
  %h = stablehlo.maximum %0, %zero : tensor<1x64xf32>
  %1 = stablehlo.dot_general %h, %down, contracting_dims = [1] x [0] : (tensor<1x64xf32>, tensor<64x32xf32>) -> tensor<1x32xf32> loc("mlp/down/dot_general")
  %2 = stablehlo.dot_general %h, %a, contracting_dims = [1] x [0] : (tensor<1x64xf32>, tensor<64x2xf32>) -> tensor<1x2xf32> loc("mlp/lora/a/dot_general")
  %3 = stablehlo.dot_general %2, %b, contracting_dims = [1] x [0] : (tensor<1x2xf32>, tensor<2x32xf32>) -> tensor<1x32xf32> loc("mlp/lora/b/dot_general")
  %4 = stablehlo.add %1, %3 : tensor<1x32xf32>
  return %4 : tensor<1x32xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=1),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 16.9 kB → 4.5 kB read a call
  on?      ffn/0: relu 32→64 float32 batch 1
             LowRank(rank=1, bfloat16), 16 of 64 rows exact; 16.9 kB → 4.5 kB
               read a call, 8.4 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  why not? it makes 2 numbers of its neurons, of 32 inputs (an adapter on the
             block)  [mlp/lora/a]
           a low-rank adapter (rank 2): what it adds is computed whole
             [mlp/lora/b]
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)
arguments of the step: arg0, arg2, arg3, arg4, and prepared:
  %arg4 is a_rows, from arg1, arg2, arg3
  %arg5 is b, from arg1, arg2, arg3
  %arg6 is rows0, from arg1, arg2, arg3

// ===== output
module {
  func.func public @main(%arg0: tensor<1x32xf32>, %arg1: tensor<64x32xf32>, %arg2: tensor<64x2xf32>, %arg3: tensor<2x32xf32>, %arg4: tensor<1x32xf32>, %arg5: tensor<64x1xui16>, %arg6: tensor<64x32xf32>) -> tensor<1x32xf32> {
    %0:2 = call @hire_site(%arg4, %arg5, %arg6, %arg1, %arg2, %arg0) : (tensor<1x32xf32>, tensor<64x1xui16>, tensor<64x32xf32>, tensor<64x32xf32>, tensor<64x2xf32>, tensor<1x32xf32>) -> (tensor<1x32xf32>, tensor<1x2xf32>)
    %1 = stablehlo.dot_general %0#1, %arg3, contracting_dims = [1] x [0] : (tensor<1x2xf32>, tensor<2x32xf32>) -> tensor<1x32xf32>
    %2 = stablehlo.add %0#0, %1 : tensor<1x32xf32>
    return %2 : tensor<1x32xf32>
  }
  func.func private @hire_site(%arg0: tensor<1x32xf32>, %arg1: tensor<64x1xui16>, %arg2: tensor<64x32xf32>, %arg3: tensor<64x32xf32>, %arg4: tensor<64x2xf32>, %arg5: tensor<1x32xf32>) -> (tensor<1x32xf32>, tensor<1x2xf32>) {
    … dot_general 1x32xf32, 32x1xf32 → 1x1xf32
    … dot_general 1x1xf32, 1x64xf32 → 1x64xf32
    … top_k 64xf32 → 16xf32, 16xi32
    … gather 64x2x16xf32 → 16x2x16xf32
    … dot_general 1x32xf32, 32x16xf32 → 1x16xf32
    … gather 64x32xf32 → 2x32xf32  ×8
    … dot_general 1x2xf32, 2x32xf32 → 1x32xf32
    … gather 64x2xf32 → 2x2xf32  ×8
    … dot_general 1x2xf32, 2x2xf32 → 1x2xf32
  }
}
