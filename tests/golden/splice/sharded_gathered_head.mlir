// Devices that gather all logits before an argmax exchange, after the rewrite, the best of each and its place: a number and
// an index instead of a vocabulary. Every device chooses among its own rows.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<256x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<1xi32> {
  %0 = sdy.manual_computation(%x, %embed) in_shardings=[<@mesh, [{}, {}]>, <@mesh, [{"model"}, {}]>] out_shardings=[<@mesh, [{}]>] manual_axes={"model"} (%own_x: tensor<1x8xf32>, %rows: tensor<32x8xf32>) {
    %own = stablehlo.dot_general %own_x, %rows, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<32x8xf32>) -> tensor<1x32xf32> loc("logits/dot_general")
    %1 = "stablehlo.all_gather"(%own) <{all_gather_dim = 1 : i64, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<[[0, 1, 2, 3, 4, 5, 6, 7]]> : tensor<1x8xi64>, use_global_device_ids}> : (tensor<1x32xf32>) -> tensor<1x256xf32>
    %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %first = stablehlo.constant dense<0> : tensor<i32>
    %at = stablehlo.iota dim = 1 : tensor<1x256xi32>
    %2:2 = stablehlo.reduce(%1 init: %low), (%at init: %first) across dimensions = [1] : (tensor<1x256xf32>, tensor<1x256xi32>, tensor<f32>, tensor<i32>) -> (tensor<1xf32>, tensor<1xi32>)
     reducer(%a: tensor<f32>, %b: tensor<f32>) (%i: tensor<i32>, %j: tensor<i32>) {
      %c = stablehlo.compare GT, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %d = stablehlo.compare EQ, %a, %b, FLOAT : (tensor<f32>, tensor<f32>) -> tensor<i1>
      %e = stablehlo.compare LT, %i, %j, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      %f = stablehlo.and %d, %e : tensor<i1>
      %g = stablehlo.or %c, %f : tensor<i1>
      %h = stablehlo.select %c, %a, %b : tensor<i1>, tensor<f32>
      %k = stablehlo.select %g, %i, %j : tensor<i1>, tensor<i32>
      stablehlo.return %h, %k : tensor<f32>, tensor<i32>
    }
    sdy.return %2#1 : tensor<1xi32>
  } : (tensor<1x8xf32>, tensor<256x8xf32>) -> tensor<1xi32>
  return %0 : tensor<1xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.6 kB read a call
  on?      head/0: argmax 8→32 float32 batch 1 on each of 8 devices
             Quantized(bits=8), 8 of 32 rows exact; 1.0 kB → 0.6 kB read a call,
               0.4 kB added
  right?   head/0: approximate: the result is exact if the predictor's
             candidates include the true winners
arguments of the step: arg0, arg1, and prepared:
  %arg2 is q, from arg1
  %arg3 is scale, from arg1

// ===== output
module {
  sdy.mesh @mesh = <["model"=8]>
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<256x8xf32>, %arg2: tensor<256x8xi8>, %arg3: tensor<256xf32>) -> tensor<1xi32> {
    %0 = sdy.manual_computation(%arg0, %arg1, %arg2, %arg3) in_shardings=[<@mesh, [{}, {}]>, <@mesh, [{"model"}, {}]>, <@mesh, [{"model"}, {}]>, <@mesh, [{"model"}]>] out_shardings=[<@mesh, [{}]>] manual_axes={"model"} (%arg4: tensor<1x8xf32>, %arg5: tensor<32x8xf32>, %arg6: tensor<32x8xi8>, %arg7: tensor<32xf32>) {
      %1 = func.call @hire_body(%arg4, %arg5, %arg6, %arg7) : (tensor<1x8xf32>, tensor<32x8xf32>, tensor<32x8xi8>, tensor<32xf32>) -> tensor<1xi32>
      sdy.return %1 : tensor<1xi32>
    } : (tensor<1x8xf32>, tensor<256x8xf32>, tensor<256x8xi8>, tensor<256xf32>) -> tensor<1xi32>
    return %0 : tensor<1xi32>
  }
  func.func private @hire_body(%arg0: tensor<1x8xf32>, %arg1: tensor<32x8xf32>, %arg2: tensor<32x8xi8>, %arg3: tensor<32xf32>) -> tensor<1xi32> {
    … call @hire_site
    … all_gather 1x1xf32 → 1x8xf32
    … all_gather 1x1xi32 → 1x8xi32
  }
  func.func private @hire_site(%arg0: tensor<32x8xi8>, %arg1: tensor<32xf32>, %arg2: tensor<32x8xf32>, %arg3: tensor<1x8xf32>) -> (tensor<1xf32>, tensor<1xi32>) {
    … dot_general 1x8xf32, 8x32xf32 → 1x32xf32
    … top_k 1x32xf32 → 1x8xf32, 1x8xi32
    … gather 32x8xf32 → 8x8xf32
    … dot_general 1x8xf32, 8x8xf32 → 1x8xf32
  }
}
