// Between the two products stands a cosine, which is one at zero: to leave a neuron out would not make it zero, so none
// can be.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %1 = stablehlo.cosine %0 : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     the activation is none of relu, relu2, relu3, relu6, silu, gelu,
             gelu_tanh, gelu_sigmoid, sigmoid, tanh, leaky_relu, elu, selu,
             mish, hard_silu, identity (nearest: sigmoid), and it is not zero at
             zero, so no neuron can be left out  [mlp/up]
  miss     the activation is none of relu, relu2, relu3, relu6, silu, gelu,
             gelu_tanh, gelu_sigmoid, sigmoid, tanh, leaky_relu, elu, selu,
             mish, hard_silu, identity (nearest: sigmoid), and it is not zero at
             zero, so no neuron can be left out  [mlp/down]
