// Weights that a token loop hands to a layer loop inside it leave both loops. The counter and the activations stay,
// because the loops change them.

// ===== input
func.func public @main(%x: tensor<1x4xf32>, %ws: tensor<2x4x4xf32>) -> tensor<1x4xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0:3 = stablehlo.while(%t = %zero, %token = %x, %outer = %ws) : tensor<i32>, tensor<1x4xf32>, tensor<2x4x4xf32>
  cond {
    %five = stablehlo.constant dense<5> : tensor<i32>
    %go = stablehlo.compare LT, %t, %five, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %start = stablehlo.constant dense<0> : tensor<i32>
    %1:3 = stablehlo.while(%i = %start, %h = %token, %inner = %outer) : tensor<i32>, tensor<1x4xf32>, tensor<2x4x4xf32>
    cond {
      %two = stablehlo.constant dense<2> : tensor<i32>
      %more = stablehlo.compare LT, %i, %two, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %more : tensor<i1>
    } do {
      %first = stablehlo.constant dense<0> : tensor<i32>
      %2 = stablehlo.dynamic_slice %inner, %i, %first, %first, sizes = [1, 4, 4] : (tensor<2x4x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x4x4xf32>
      %3 = stablehlo.reshape %2 : (tensor<1x4x4xf32>) -> tensor<4x4xf32>
      %4 = stablehlo.dot_general %h, %3, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x4xf32>) -> tensor<1x4xf32>
      %5 = stablehlo.tanh %4 : tensor<1x4xf32>
      %one = stablehlo.constant dense<1> : tensor<i32>
      %next = stablehlo.add %i, %one : tensor<i32>
      stablehlo.return %next, %5, %inner : tensor<i32>, tensor<1x4xf32>, tensor<2x4x4xf32>
    }
    %step = stablehlo.constant dense<1> : tensor<i32>
    %later = stablehlo.add %t, %step : tensor<i32>
    stablehlo.return %later, %1#1, %outer : tensor<i32>, tensor<1x4xf32>, tensor<2x4x4xf32>
  }
  return %0#1 : tensor<1x4xf32>
}

// ===== report
carries of loops: 6 → 4
stablehlo.constant: 7 → 5

// ===== output
module {
  func.func public @main(%arg0: tensor<1x4xf32>, %arg1: tensor<2x4x4xf32>) -> tensor<1x4xf32> {
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0:2 = stablehlo.while(%iterArg = %c, %iterArg_0 = %arg0) : tensor<i32>, tensor<1x4xf32>
    cond {
      %c_1 = stablehlo.constant dense<5> : tensor<i32>
      %1 = stablehlo.compare LT, %iterArg, %c_1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %1 : tensor<i1>
    } do {
      %1:2 = stablehlo.while(%iterArg_2 = %c, %iterArg_3 = %iterArg_0) : tensor<i32>, tensor<1x4xf32>
      cond {
        %c_4 = stablehlo.constant dense<2> : tensor<i32>
        %3 = stablehlo.compare LT, %iterArg_2, %c_4, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
        stablehlo.return %3 : tensor<i1>
      } do {
        %3 = stablehlo.dynamic_slice %arg1, %iterArg_2, %c, %c, sizes = [1, 4, 4] : (tensor<2x4x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x4x4xf32>
        %4 = stablehlo.reshape %3 : (tensor<1x4x4xf32>) -> tensor<4x4xf32>
        %5 = stablehlo.dot_general %iterArg_3, %4, contracting_dims = [1] x [0] : (tensor<1x4xf32>, tensor<4x4xf32>) -> tensor<1x4xf32>
        %6 = stablehlo.tanh %5 : tensor<1x4xf32>
        %c_4 = stablehlo.constant dense<1> : tensor<i32>
        %7 = stablehlo.add %iterArg_2, %c_4 : tensor<i32>
        stablehlo.return %7, %6 : tensor<i32>, tensor<1x4xf32>
      }
      %c_1 = stablehlo.constant dense<1> : tensor<i32>
      %2 = stablehlo.add %iterArg, %c_1 : tensor<i32>
      stablehlo.return %2, %1#1 : tensor<i32>, tensor<1x4xf32>
    }
    return %0#1 : tensor<1x4xf32>
  }
}
