// A float64 product is refused by its type; nothing here computes in 64 bits.

// ===== input
func.func public @main(%x: tensor<1x8xf64>, %up: tensor<8x32xf64>, %down: tensor<32x8xf64>) -> tensor<1x8xf64> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf64>, tensor<8x32xf64>) -> tensor<1x32xf64> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf64>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf64>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf64>, tensor<32x8xf64>) -> tensor<1x8xf64> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf64>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     its weight is no parameter as it stands: it is stored as float64
             [mlp/up]
  miss     its weight is no parameter as it stands: it is stored as float64
             [mlp/down]
