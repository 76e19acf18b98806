// A beam search adds the score of each beam to its logits, puts all beams into one row, and takes the best of it. Every
// beam has candidates of its own, and the best of all are proven against every other token of every beam.

// ===== input
func.func public @main(%x: tensor<2x8xf32>, %embed: tensor<1024x8xf32>, %scores: tensor<2x1xf32>) -> tensor<1x2xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<2x8xf32>, tensor<1024x8xf32>) -> tensor<2x1024xf32> loc("logits/dot_general")
  %so_far = stablehlo.broadcast_in_dim %scores, dims = [0, 1] : (tensor<2x1xf32>) -> tensor<2x1024xf32>
  %each = stablehlo.add %z, %so_far : tensor<2x1024xf32>
  %all = stablehlo.reshape %each : (tensor<2x1024xf32>) -> tensor<1x2048xf32>
  %values, %ids = chlo.top_k(%all, k = 2) : tensor<1x2048xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify=True),))

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 32.8 kB → 16.6 kB read a call
  on?      head/0: beam_search 8→1024 float32 batch 2
             Quantized(bits=8), 8 of 1024 rows exact; 32.8 kB → 16.6 kB read a
               call, 22.5 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is blocks, from arg1
  %arg4 is bound, from arg1
  %arg5 is norm, from arg1
  %arg6 is q, from arg1
  %arg7 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<1024x8xf32>, %arg2: tensor<2x1xf32>, %arg3: tensor<1024x1xui16>, %arg4: tensor<1024xf32>, %arg5: tensor<1024xf32>, %arg6: tensor<1024x8xi8>, %arg7: tensor<1024xf32>) -> (tensor<1x2xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg3, %arg4, %arg5, %arg6, %arg7, %arg1, %arg0, %arg2, %arg0, %arg1, %arg2) : (tensor<1024x1xui16>, tensor<1024xf32>, tensor<1024xf32>, tensor<1024x8xi8>, tensor<1024xf32>, tensor<1024x8xf32>, tensor<2x8xf32>, tensor<2x1xf32>, tensor<2x8xf32>, tensor<1024x8xf32>, tensor<2x1xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>, tensor<2xf32>)
    return %0#1, %0#2 : tensor<1x2xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<2x8xf32>, %arg1: tensor<1024x8xf32>, %arg2: tensor<2x1xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) { … }
  func.func private @hire_site(%arg0: tensor<1024x1xui16>, %arg1: tensor<1024xf32>, %arg2: tensor<1024xf32>, %arg3: tensor<1024x8xi8>, %arg4: tensor<1024xf32>, %arg5: tensor<1024x8xf32>, %arg6: tensor<2x8xf32>, %arg7: tensor<2x1xf32>, %arg8: tensor<2x8xf32>, %arg9: tensor<1024x8xf32>, %arg10: tensor<2x1xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>, tensor<2xf32>) {
    … dot_general 1x8xf32, 8x1024xf32 → 1x1024xf32  ×2
    … top_k 2x32xf32 → 2x8xf32, 2x8xi32
    … gather 2x32x32xf32 → 2x8x32xf32
    … top_k 2x256xf32 → 2x8xf32, 2x8xi32
    … gather 1024x8xf32 → 8x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … gather 1024x8xf32 → 8x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
    … while { } {
      … case { } {
        … dot_general 1x1xf32, 1x1024xf32 → 1x1024xf32  ×2
      … } {
        … gather 2x8xf32 → 1x8xf32
        … dot_general 1x8xf32, 8x1024xf32 → 1x1024xf32
      … }
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
