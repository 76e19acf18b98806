// A certified head over eight devices: every shard compares its bounds with the winners of all shards. Where a row
// is not proven the author's whole program runs, partitioned by XLA as before.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<256x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<1x2xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<256x8xf32>) -> tensor<1x256xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x256xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=16, certify="strict"),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.7 kB read a call
  on?      head/0: top_k 8→256 float32 batch 1
             Quantized(bits=8), 40 of 256 rows exact; 1.0 kB → 0.7 kB read a
               call, 0.7 kB added; 8 shards choose 5 rows each, expected to hold
               99.54% of the best; bytes are one device's
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, and prepared:
  %arg2 is blocks, from arg1
  %arg3 is bound, from arg1
  %arg4 is norm, from arg1
  %arg5 is q, from arg1
  %arg6 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  sdy.mesh @mesh = <["model"=8]>
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<256x8xf32>, %arg2: tensor<256x1xui16>, %arg3: tensor<256xf32>, %arg4: tensor<256xf32>, %arg5: tensor<256x8xi8>, %arg6: tensor<256xf32>) -> (tensor<1x2xi32>, tensor<2xf32>) {
    %0:3 = call @hire_site(%arg2, %arg3, %arg4, %arg5, %arg6, %arg1, %arg0, %arg0, %arg1) : (tensor<256x1xui16>, tensor<256xf32>, tensor<256xf32>, tensor<256x8xi8>, tensor<256xf32>, tensor<256x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>, tensor<256x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>, tensor<2xf32>)
    return %0#1, %0#2 : tensor<1x2xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<256x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) { … }
  func.func private @hire_site(%arg0: tensor<256x1xui16>, %arg1: tensor<256xf32>, %arg2: tensor<256xf32>, %arg3: tensor<256x8xi8>, %arg4: tensor<256xf32>, %arg5: tensor<256x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x8xf32>, %arg8: tensor<256x8xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>, tensor<2xf32>) {
    … on each device {
      … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
      … top_k 1x32xf32 → 1x5xf32, 1x5xi32
      … gather 32x8xf32 → 5x8xf32
      … dot_general 1x8xf32, 8x5xf32 → 1x5xf32
      … top_k 1x5xf32 → 1x2xf32, 1x2xi32
      … all_gather 2x2xi32 → 2x16xi32
      … top_k 1x16xf32 → 1x2xf32, 1x2xi32
      … case {
        … dot_general 1x1xf32, 1x32xf32 → 1x32xf32
      … } { }
      … all_reduce 1xi32 → 1xi32
      … all_reduce f32 → f32  ×2
    … }
    … case {
      … call @hire_author_0
    … } { }
  }
}
