// A block whose two products stand in shard_maps of their own, as engines write linear layers, is read and rewritten as one:
// the relu between them moves inside. What the first returns, each device hands to itself, so nothing new is exchanged.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x128xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}, %down: tensor<128x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<1x8xf32> {
  %0 = sdy.manual_computation(%x, %up) in_shardings=[<@mesh, [{}, {}]>, <@mesh, [{}, {"model"}]>] out_shardings=[<@mesh, [{}, {"model"}]>] manual_axes={"model"} (%h: tensor<1x8xf32>, %u: tensor<8x16xf32>) {
    %1 = stablehlo.dot_general %h, %u, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x16xf32>) -> tensor<1x16xf32> loc("mlp/up/dot_general")
    sdy.return %1 : tensor<1x16xf32>
  } : (tensor<1x8xf32>, tensor<8x128xf32>) -> tensor<1x128xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<1x128xf32>
  %2 = stablehlo.maximum %0, %zero : tensor<1x128xf32>
  %3 = sdy.manual_computation(%2, %down) in_shardings=[<@mesh, [{}, {"model"}]>, <@mesh, [{"model"}, {}]>] out_shardings=[<@mesh, [{}, {}]>] manual_axes={"model"} (%h: tensor<1x16xf32>, %d: tensor<16x8xf32>) {
    %4 = stablehlo.dot_general %h, %d, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
    %5 = "stablehlo.all_reduce"(%4) <{channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<[[0, 1, 2, 3, 4, 5, 6, 7]]> : tensor<1x8xi64>, use_global_device_ids}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }) : (tensor<1x8xf32>) -> tensor<1x8xf32>
    sdy.return %5 : tensor<1x8xf32>
  } : (tensor<1x128xf32>, tensor<128x8xf32>) -> tensor<1x8xf32>
  return %3 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=1),))

// ===== setting
devices: 8

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 1.0 kB → 0.3 kB read a call
  on?      ffn/0: relu 8→16 float32 batch 1 on each of 8 devices
             LowRank(rank=1, bfloat16), 4 of 16 rows exact; 1.0 kB → 0.3 kB read
               a call, 0.6 kB added
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
  sdy.mesh @mesh = <["model"=8]>
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<128x8xf32>, %arg2: tensor<8x8xf32>, %arg3: tensor<128x1xui16>, %arg4: tensor<128x8xf32>) -> tensor<1x8xf32> {
    %0 = sdy.manual_computation(%arg0, %arg1, %arg2, %arg3, %arg4) in_shardings=[<@mesh, [{}, {}]>, <@mesh, [{"model"}, {}]>, <@mesh, [{"model"}, {}]>, <@mesh, [{"model"}, {}]>, <@mesh, [{"model"}, {}]>] out_shardings=[<@mesh, [{}, {}]>] manual_axes={"model"} (%arg5: tensor<1x8xf32>, %arg6: tensor<16x8xf32>, %arg7: tensor<1x8xf32>, %arg8: tensor<16x1xui16>, %arg9: tensor<16x8xf32>) {
      %1 = func.call @hire_body(%arg5, %arg6, %arg7, %arg8, %arg9) : (tensor<1x8xf32>, tensor<16x8xf32>, tensor<1x8xf32>, tensor<16x1xui16>, tensor<16x8xf32>) -> tensor<1x8xf32>
      sdy.return %1 : tensor<1x8xf32>
    } : (tensor<1x8xf32>, tensor<128x8xf32>, tensor<8x8xf32>, tensor<128x1xui16>, tensor<128x8xf32>) -> tensor<1x8xf32>
    return %0 : tensor<1x8xf32>
  }
  func.func private @hire_body(%arg0: tensor<1x8xf32>, %arg1: tensor<16x8xf32>, %arg2: tensor<1x8xf32>, %arg3: tensor<16x1xui16>, %arg4: tensor<16x8xf32>) -> tensor<1x8xf32> {
    … call @hire_site
    … all_reduce 1x8xf32 → 1x8xf32
  }
  func.func private @hire_site(%arg0: tensor<1x8xf32>, %arg1: tensor<16x1xui16>, %arg2: tensor<16x8xf32>, %arg3: tensor<16x8xf32>, %arg4: tensor<1x8xf32>) -> (tensor<1x8xf32>) {
    … dot_general 1x8xf32, 8x1xf32 → 1x1xf32
    … dot_general 1x1xf32, 1x16xf32 → 1x16xf32
    … top_k 16xf32 → 4xf32, 4xi32
    … gather 16x2x4xf32 → 4x2x4xf32
    … dot_general 1x8xf32, 8x4xf32 → 1x4xf32
    … gather 16x8xf32 → 1x8xf32  ×8
    … dot_general 1x1xf32, 1x8xf32 → 1x8xf32
  }
}
