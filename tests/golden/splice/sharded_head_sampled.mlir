// A sampler over eight devices: logits over a temperature, the best four, and noise on these. Every device chooses among
// its own rows and proves the best four together with the others; what follows them is the author's, on four numbers.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<2x8xf32>, %embed: tensor<256x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}, %temperature: tensor<2xf32>, %noise: tensor<2x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>) {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<2x8xf32>, tensor<256x8xf32>) -> tensor<2x256xf32> loc("logits/dot_general")
  %t = stablehlo.broadcast_in_dim %temperature, dims = [0] : (tensor<2xf32>) -> tensor<2x256xf32>
  %warm = stablehlo.divide %z, %t : tensor<2x256xf32>
  %best, %tokens = chlo.top_k(%warm, k = 4) : tensor<2x256xf32> -> (tensor<2x4xf32>, tensor<2x4xi32>)
  %noisy = stablehlo.add %best, %noise : tensor<2x4xf32>
  return %noisy, %tokens : tensor<2x4xf32>, tensor<2x4xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=16, certify="strict"),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.7 kB read a call
  on?      head/0: top_k 8→256 float32 batch 2
             Quantized(bits=8), 40 of 256 rows exact; 1.0 kB → 0.7 kB read a
               call, 0.7 kB added; 8 shards choose 5 rows each, expected to hold
               99.54% of the best; bytes are one device's
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, arg2, arg3, and prepared:
  %arg4 is blocks, from arg1
  %arg5 is bound, from arg1
  %arg6 is norm, from arg1
  %arg7 is q, from arg1
  %arg8 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  sdy.mesh @mesh = <["model"=8]>
  func.func public @main(%arg0: tensor<2x8xf32>, %arg1: tensor<256x8xf32>, %arg2: tensor<2xf32>, %arg3: tensor<2x4xf32>, %arg4: tensor<256x1xui16>, %arg5: tensor<256xf32>, %arg6: tensor<256xf32>, %arg7: tensor<256x8xi8>, %arg8: tensor<256xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg4, %arg5, %arg6, %arg7, %arg8, %arg1, %arg0, %arg2, %arg0, %arg1, %arg2) : (tensor<256x1xui16>, tensor<256xf32>, tensor<256xf32>, tensor<256x8xi8>, tensor<256xf32>, tensor<256x8xf32>, tensor<2x8xf32>, tensor<2xf32>, tensor<2x8xf32>, tensor<256x8xf32>, tensor<2xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>, tensor<2xf32>)
    %1 = stablehlo.add %0#0, %arg3 : tensor<2x4xf32>
    return %1, %0#1, %0#2 : tensor<2x4xf32>, tensor<2x4xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<2x8xf32>, %arg1: tensor<256x8xf32>, %arg2: tensor<2xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>) { … }
  func.func private @hire_site(%arg0: tensor<256x1xui16>, %arg1: tensor<256xf32>, %arg2: tensor<256xf32>, %arg3: tensor<256x8xi8>, %arg4: tensor<256xf32>, %arg5: tensor<256x8xf32>, %arg6: tensor<2x8xf32>, %arg7: tensor<2xf32>, %arg8: tensor<2x8xf32>, %arg9: tensor<256x8xf32>, %arg10: tensor<2xf32>) -> (tensor<2x4xf32>, tensor<2x4xi32>, tensor<2xf32>) {
    … on each device {
      … dot_general 1x8xf32, 8x32xf32 → 1x32xf32  ×2
      … top_k 2x32xf32 → 2x5xf32, 2x5xi32
      … gather 32x8xf32 → 5x8xf32
      … dot_general 1x8xf32, 8x5xf32 → 1x5xf32
      … gather 32x8xf32 → 5x8xf32
      … dot_general 1x8xf32, 8x5xf32 → 1x5xf32
      … top_k 2x5xf32 → 2x4xf32, 2x4xi32
      … gather 2x5xf32 → 2x4xf32  ×7
      … all_gather 4x4xi32 → 4x32xi32
      … top_k 2x32xf32 → 2x4xf32, 2x4xi32
      … gather 2x32xf32 → 2x4xf32  ×2
      … case {
        … dot_general 1x1xf32, 1x32xf32 → 1x32xf32  ×2
      … } { }
      … all_reduce 2xi32 → 2xi32
      … gather 2x5xf32 → 2x4xf32
      … all_reduce f32 → f32  ×2
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
