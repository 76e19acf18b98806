// A shard_map that stands in a loop (of tokens, or of layers) is found and named, and stays as its author wrote it:
// prepared arrays cannot be handed to its body yet.

// ===== input
sdy.mesh @mesh = <["model"=8]>
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x128xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"model"}]>}, %down: tensor<128x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"model"}, {}]>}) -> tensor<1x8xf32> {
  %start = stablehlo.constant dense<0> : tensor<i32>
  %0:2 = stablehlo.while(%i = %start, %token = %x) : tensor<i32>, tensor<1x8xf32>
  cond {
    %four = stablehlo.constant dense<4> : tensor<i32>
    %more = stablehlo.compare LT, %i, %four, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %more : tensor<i1>
  } do {
    %1 = sdy.manual_computation(%token, %up, %down) in_shardings=[<@mesh, [{}, {}]>, <@mesh, [{}, {"model"}]>, <@mesh, [{"model"}, {}]>] out_shardings=[<@mesh, [{}, {}]>] manual_axes={"model"} (%h: tensor<1x8xf32>, %u: tensor<8x16xf32>, %d: tensor<16x8xf32>) {
      %2 = stablehlo.dot_general %h, %u, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x16xf32>) -> tensor<1x16xf32> loc("mlp/up/dot_general")
      %zero = stablehlo.constant dense<0.0> : tensor<1x16xf32>
      %3 = stablehlo.maximum %2, %zero : tensor<1x16xf32>
      %4 = stablehlo.dot_general %3, %d, contracting_dims = [1] x [0] : (tensor<1x16xf32>, tensor<16x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
      %5 = "stablehlo.all_reduce"(%4) <{channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<[[0, 1, 2, 3, 4, 5, 6, 7]]> : tensor<1x8xi64>, use_global_device_ids}> ({
      ^bb0(%a: tensor<f32>, %b: tensor<f32>):
        %c = stablehlo.add %a, %b : tensor<f32>
        stablehlo.return %c : tensor<f32>
      }) : (tensor<1x8xf32>) -> tensor<1x8xf32>
      sdy.return %5 : tensor<1x8xf32>
    } : (tensor<1x8xf32>, tensor<8x128xf32>, tensor<128x8xf32>) -> tensor<1x8xf32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %1 : tensor<i32>, tensor<1x8xf32>
  }
  return %0#1 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), density=0.25, group=1),))

// ===== setting
devices: 8

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 8→16 float32 batch 1 on each of 8 devices
             left dense: a shard_map in a loop or a branch stays as it is
  note     no site is rewritten, so the function runs unchanged
  note     A shard_map in a loop or a branch stays as it is

// ===== plan
a plan of no sites
