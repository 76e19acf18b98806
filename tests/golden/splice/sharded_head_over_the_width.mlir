// Eight devices hold eight columns each of a head whose author sums over devices. When weights are prepared, rows and
// columns change places between devices, once: then every device has whole rows, and chooses among its own.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x64xf32>, %embed: tensor<128x64xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}) -> tensor<1x2xi32> {
  %z = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x64xf32>, tensor<128x64xf32>) -> tensor<1x128xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x128xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 4.1 kB → 1.9 kB read a call
  on?      head/0: top_k 64→128 float32 batch 1
             Quantized(bits=8), 24 of 128 rows exact; 4.1 kB → 1.9 kB read a
               call, 5.2 kB added; 8 shards choose 3 rows each, expected to hold
               99.06% of the best; bytes are one device's
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
arguments of the step: arg0, and prepared:
  %arg1 is q, from arg1
  %arg2 is rows0, from arg1
  %arg3 is scale, from arg1

// ===== output
module {
  sdy.mesh @mesh = <["model"=8]>
  func.func public @main(%arg0: tensor<1x64xf32>, %arg1: tensor<128x64xi8>, %arg2: tensor<128x64xf32>, %arg3: tensor<128xf32>) -> tensor<1x2xi32> {
    %0:2 = call @hire_site(%arg1, %arg2, %arg3, %arg0) : (tensor<128x64xi8>, tensor<128x64xf32>, tensor<128xf32>, tensor<1x64xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>)
    return %0#1 : tensor<1x2xi32>
  }
  func.func private @hire_site(%arg0: tensor<128x64xi8>, %arg1: tensor<128x64xf32>, %arg2: tensor<128xf32>, %arg3: tensor<1x64xf32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) {
    … on each device {
      … dot_general 1x64xf32, 64x16xf32 → 1x16xf32
      … top_k 1x16xf32 → 1x3xf32, 1x3xi32
      … gather 16x64xf32 → 3x64xf32
      … dot_general 1x64xf32, 64x3xf32 → 1x3xf32
      … top_k 1x3xf32 → 1x2xf32, 1x2xi32
      … all_gather 2x2xi32 → 2x16xi32
      … top_k 1x16xf32 → 1x2xf32, 1x2xi32
    … }
  }
}
