// Noise that only one branch draws is drawn in front of it, in a branch on the same condition. So the code behind the
// logits can be followed, the noise is a value like any other, and a greedy call draws none.

// ===== input
func.func public @main(%which: tensor<f32>, %logits: tensor<2x32xf32>, %words: tensor<2xf32>) -> tensor<2x32xf32> {
  %key = stablehlo.convert %words : (tensor<2xf32>) -> tensor<2xui64>
  %greedy = stablehlo.convert %which : (tensor<f32>) -> tensor<i32>
  %0 = "stablehlo.case"(%greedy) ({
    %state, %bits = stablehlo.rng_bit_generator %key, algorithm = THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<2x32xui32>)
    %noise = stablehlo.convert %bits : (tensor<2x32xui32>) -> tensor<2x32xf32>
    %root = stablehlo.sqrt %noise : tensor<2x32xf32>
    %sum = stablehlo.add %logits, %root : tensor<2x32xf32>
    stablehlo.return %sum : tensor<2x32xf32>
  }, {
    stablehlo.return %logits : tensor<2x32xf32>
  }) : (tensor<i32>) -> tensor<2x32xf32>
  return %0 : tensor<2x32xf32>
}

// ===== report
stablehlo.case: 1 → 2
stablehlo.constant: 0 → 1
stablehlo.return: 2 → 4

// ===== output
module {
  func.func public @main(%arg0: tensor<f32>, %arg1: tensor<2x32xf32>, %arg2: tensor<2xf32>) -> tensor<2x32xf32> {
    %0 = stablehlo.convert %arg2 : (tensor<2xf32>) -> tensor<2xui64>
    %1 = stablehlo.convert %arg0 : (tensor<f32>) -> tensor<i32>
    %2 = "stablehlo.case"(%1) ({
      %output_state, %output = stablehlo.rng_bit_generator %0, algorithm = THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<2x32xui32>)
      %4 = stablehlo.convert %output : (tensor<2x32xui32>) -> tensor<2x32xf32>
      %5 = stablehlo.sqrt %4 : tensor<2x32xf32>
      stablehlo.return %5 : tensor<2x32xf32>
    }, {
      %cst = stablehlo.constant dense<0.000000e+00> : tensor<2x32xf32>
      stablehlo.return %cst : tensor<2x32xf32>
    }) : (tensor<i32>) -> tensor<2x32xf32>
    %3 = "stablehlo.case"(%1) ({
      %4 = stablehlo.add %arg1, %2 : tensor<2x32xf32>
      stablehlo.return %4 : tensor<2x32xf32>
    }, {
      stablehlo.return %arg1 : tensor<2x32xf32>
    }) : (tensor<i32>) -> tensor<2x32xf32>
    return %3 : tensor<2x32xf32>
  }
}
