// Stacks of weights that a loop over layers (jax.lax.scan) carries unchanged leave the loop, and its body reads them
// where they were made. So their origin is plain, and a prepared array can be used in the body without being
// carried.

// ===== input
func.func public @main(%x: tensor<2x4xf32>, %ups: tensor<3x4x6xf32>, %downs: tensor<3x6x4xf32>) -> (tensor<2x4xf32>, tensor<3x4x6xf32>) {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0:4 = stablehlo.while(%i = %zero, %h = %x, %u = %ups, %v = %downs) : tensor<i32>, tensor<2x4xf32>, tensor<3x4x6xf32>, tensor<3x6x4xf32>
  cond {
    %three = stablehlo.constant dense<3> : tensor<i32>
    %go = stablehlo.compare LT, %i, %three, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %first = stablehlo.constant dense<0> : tensor<i32>
    %1 = stablehlo.dynamic_slice %u, %i, %first, %first, sizes = [1, 4, 6] : (tensor<3x4x6xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x4x6xf32>
    %2 = stablehlo.reshape %1 : (tensor<1x4x6xf32>) -> tensor<4x6xf32>
    %3 = stablehlo.dynamic_slice %v, %i, %first, %first, sizes = [1, 6, 4] : (tensor<3x6x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x6x4xf32>
    %4 = stablehlo.reshape %3 : (tensor<1x6x4xf32>) -> tensor<6x4xf32>
    %5 = func.call @layer(%h, %2, %4) : (tensor<2x4xf32>, tensor<4x6xf32>, tensor<6x4xf32>) -> tensor<2x4xf32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %5, %u, %v : tensor<i32>, tensor<2x4xf32>, tensor<3x4x6xf32>, tensor<3x6x4xf32>
  }
  return %0#1, %0#2 : tensor<2x4xf32>, tensor<3x4x6xf32>
}
func.func private @layer(%h: tensor<2x4xf32>, %up: tensor<4x6xf32>, %down: tensor<6x4xf32>) -> tensor<2x4xf32> {
  %zero = stablehlo.constant dense<0.0> : tensor<2x6xf32>
  %0 = stablehlo.dot_general %h, %up, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<2x6xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<2x6xf32>, tensor<6x4xf32>) -> tensor<2x4xf32>
  %3 = stablehlo.add %h, %2 : tensor<2x4xf32>
  return %3 : tensor<2x4xf32>
}

// ===== report
carries of loops: 4 → 2
func.call: 1 → 0
func.func: 2 → 1
func.return: 2 → 1
stablehlo.constant: 5 → 4

// ===== output
module {
  func.func public @main(%arg0: tensor<2x4xf32>, %arg1: tensor<3x4x6xf32>, %arg2: tensor<3x6x4xf32>) -> (tensor<2x4xf32>, tensor<3x4x6xf32>) {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<2x4xf32>
    cond {
      %c_1 = stablehlo.constant dense<3> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1 = stablehlo.dynamic_slice %arg1, %iterArg, %c, %c, sizes = [1, 4, 6] : (tensor<3x4x6xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x4x6xf32>
      %2 = stablehlo.reshape %1 : (tensor<1x4x6xf32>) -> tensor<4x6xf32>
      %3 = stablehlo.dynamic_slice %arg2, %iterArg, %c, %c, sizes = [1, 6, 4] : (tensor<3x6x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x6x4xf32>
      %4 = stablehlo.reshape %3 : (tensor<1x6x4xf32>) -> tensor<6x4xf32>
      %cst = stablehlo.constant dense<0.000000e+00> : tensor<2x6xf32>
      %5 = stablehlo.dot_general %iterArg_0, %2, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x6xf32>) -> tensor<2x6xf32>
      %6 = stablehlo.maximum %5, %cst : tensor<2x6xf32>
      %7 = stablehlo.dot_general %6, %4, contracting_dims = [1] x [0] : (tensor<2x6xf32>, tensor<6x4xf32>) -> tensor<2x4xf32>
      %8 = stablehlo.add %iterArg_0, %7 : tensor<2x4xf32>
      %c_1 = stablehlo.constant dense<1> : tensor<i32>
      %9 = stablehlo.add %iterArg, %c_1 : tensor<i32>
      stablehlo.return %9, %8 : tensor<i32>, tensor<2x4xf32>
    }
    return %0#1, %arg1 : tensor<2x4xf32>, tensor<3x4x6xf32>
  }
}
