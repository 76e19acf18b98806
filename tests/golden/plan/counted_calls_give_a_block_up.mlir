// A block of which three neurons in four are active in every call gains nothing by any budget: after the calls that
// counted it, it is left as its author wrote it.

// ===== input
func.func public @main(%x: tensor<1x1024xf32>, %up: tensor<1024x4096xf32>, %down: tensor<4096x1024xf32>) -> tensor<1x1024xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x1024xf32>, tensor<1024x4096xf32>) -> tensor<1x4096xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x4096xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x4096xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x4096xf32>, tensor<4096x1024xf32>) -> tensor<1x1024xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x1024xf32>
}

// ===== config
Config()

// ===== counted
{"ffn/0": {75: 64}}

// ===== report
hire_compiler: off: 1 site, none rewritten
  why not? ffn/0: relu 1024→4096 float32 batch 1
             left dense: the exact default was tried: a budget of 25% held for 0
               of 64 calls, which cost more than it saved; dense since
  note     no site is rewritten, so the function runs unchanged
  note     2 products that stay dense, 33.6 MB a call, could be read faster:
             Config(dense_forms=True). Their sums are then taken in another
             order, which may move a result by a rounding

// ===== plan
cpu: ffn/0 [mlp/down] 1024→4096: dense, the exact default was tried: a budget of 25% held for 0 of 64 calls, which cost more than it saved; dense since
