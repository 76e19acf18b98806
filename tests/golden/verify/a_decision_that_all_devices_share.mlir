// A sum over devices may stand in a branch if all devices of its group decide alike. Here the decision is itself made of
// a number that was exchanged, so it is the same everywhere.

// ===== input
sdy.mesh @mesh = <["model"=4]>
func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = sdy.manual_computation(%x) in_shardings=[<@mesh, [{"model"}]>] out_shardings=[<@mesh, [{"model"}]>] manual_axes={"model"} (%own: tensor<1xf32>) {
    %most = "stablehlo.all_reduce"(%own) <{replica_groups = dense<[[0, 1, 2, 3]]> : tensor<1x4xi64>, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, use_global_device_ids}> ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %m = stablehlo.maximum %a, %b : tensor<f32>
      stablehlo.return %m : tensor<f32>
    }) : (tensor<1xf32>) -> tensor<1xf32>
    %number = stablehlo.reshape %most : (tensor<1xf32>) -> tensor<f32>
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %large = stablehlo.compare GT, %number, %zero : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %1 = "stablehlo.if"(%large) ({
      %sum = "stablehlo.all_reduce"(%own) <{replica_groups = dense<[[0, 1, 2, 3]]> : tensor<1x4xi64>, channel_handle = #stablehlo.channel_handle<handle = 2, type = 1>, use_global_device_ids}> ({
      ^bb0(%a: tensor<f32>, %b: tensor<f32>):
        %s = stablehlo.add %a, %b : tensor<f32>
        stablehlo.return %s : tensor<f32>
      }) : (tensor<1xf32>) -> tensor<1xf32>
      stablehlo.return %sum : tensor<1xf32>
    }, {
      stablehlo.return %own : tensor<1xf32>
    }) : (tensor<i1>) -> tensor<1xf32>
    sdy.return %1 : tensor<1xf32>
  } : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// ===== report
collectives in branches or loops, which every device of their group reaches: 1
