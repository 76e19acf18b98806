// What has the shape of a feed-forward block, relu and all, but fewer neurons than inputs is a squeeze-and-excite
// gate. There is nothing to save by skipping four neurons.

// ===== input
func.func public @main(%x: tensor<2x16xf32>, %squeeze: tensor<16x4xf32>, %excite: tensor<4x16xf32>) -> tensor<2x16xf32> {
  %h = stablehlo.tanh %x : tensor<2x16xf32>
  %0 = stablehlo.dot_general %h, %squeeze, contracting_dims = [1] x [0] : (tensor<2x16xf32>, tensor<16x4xf32>) -> tensor<2x4xf32> loc("block/se/squeeze/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<2x4xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<2x4xf32>
  %2 = stablehlo.dot_general %1, %excite, contracting_dims = [1] x [0] : (tensor<2x4xf32>, tensor<4x16xf32>) -> tensor<2x16xf32> loc("block/se/excite/dot_general")
  %3 = stablehlo.logistic %2 : tensor<2x16xf32>
  %4 = stablehlo.multiply %3, %h : tensor<2x16xf32>
  return %4 : tensor<2x16xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     its 4 neurons are fewer than its 16 inputs (an adapter or a small
             gate)  [block/se/squeeze]
  miss     its 4 neurons are fewer than its 16 inputs (an adapter or a small
             gate)  [block/se/excite]
