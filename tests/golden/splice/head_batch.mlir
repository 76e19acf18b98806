// Every row of a batch has candidates of its own, and where the proof of one row fails, only that row runs dense.
// The step returns for how many it held.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %embed: tensor<64x8xf32>) -> tensor<2x1xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<2x8xf32>, tensor<64x8xf32>) -> tensor<2x64xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 1) : tensor<2x64xf32> -> (tensor<2x1xf32>, tensor<2x1xi32>)
  return %ids : tensor<2x1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=4, certify=True),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 1.2 kB read a call
  on?      head/0: top_k 8→64 float32 batch 2
             Quantized(bits=8), 4 of 64 rows exact; 2.0 kB → 1.2 kB read a call,
               1.4 kB added
  right?   head/0: certified: the winners are proven up to rounding at run time,
             else the dense product runs
arguments of the step: arg0, arg1, and prepared:
  %arg2 is blocks, from arg1
  %arg3 is bound, from arg1
  %arg4 is norm, from arg1
  %arg5 is q, from arg1
  %arg6 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<64x8xf32>, %arg2: tensor<64x1xui16>, %arg3: tensor<64xf32>, %arg4: tensor<64xf32>, %arg5: tensor<64x8xi8>, %arg6: tensor<64xf32>) -> (tensor<2x1xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg2, %arg3, %arg4, %arg5, %arg6, %arg1, %arg0) : (tensor<64x1xui16>, tensor<64xf32>, tensor<64xf32>, tensor<64x8xi8>, tensor<64xf32>, tensor<64x8xf32>, tensor<2x8xf32>) -> (tensor<2x1xf32>, tensor<2x1xi32>, tensor<2xf32>)
    return %0#1, %0#2 : tensor<2x1xi32>, tensor<2xf32>
  }
  func.func private @hire_site(%arg0: tensor<64x1xui16>, %arg1: tensor<64xf32>, %arg2: tensor<64xf32>, %arg3: tensor<64x8xi8>, %arg4: tensor<64xf32>, %arg5: tensor<64x8xf32>, %arg6: tensor<2x8xf32>) -> (tensor<2x1xf32>, tensor<2x1xi32>, tensor<2xf32>) {
    … dot_general 1x8xf32, 8x64xf32 → 1x64xf32  ×2
    … top_k 2x64xf32 → 2x4xf32, 2x4xi32
    … gather 64x8xf32 → 4x8xf32
    … dot_general 1x8xf32, 8x4xf32 → 1x4xf32
    … gather 64x8xf32 → 4x8xf32
    … dot_general 1x8xf32, 8x4xf32 → 1x4xf32
    … top_k 2x4xf32 → 2x1xf32, 2x1xi32
    … gather 2x4xf32 → 2x1xf32  ×4
    … case {
      … dot_general 1x1xf32, 1x64xf32 → 1x64xf32  ×2
    … } { }
    … gather 2x4xf32 → 2x1xf32
    … while { } {
      … case {
        … dot_general 1x8xf32, 8x64xf32 → 1x64xf32
        … top_k 1x64xf32 → 1x1xf32, 1x1xi32
      … } { }
    … }
    … case {
      … dot_general 2x8xf32, 8x64xf32 → 2x64xf32
      … top_k 2x64xf32 → 2x1xf32, 2x1xi32
    … } { }
  }
}
