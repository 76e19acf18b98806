// No graph tells how many neurons will be active, so the exact default starts with budgets of 1/16, 1/8 and 1/4 of them,
// and counts. Here 40 % were active in each of the first 64 calls, so no budget ever held; the block is planned anew,
// once, with the one that would have been the cheapest.

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
{"ffn/0": {40: 64}}

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 33.6 MB → 23.6 MB read a call
  on?      ffn/0: relu 1024→4096 float32 batch 1
             Exact(), 1664 of 4096 rows exact; 33.6 MB → 23.6 MB read a call,
               16.8 MB added
             a budget of 25% held for 0 of 64 calls; 41% since
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs

// ===== plan
cpu: ffn/0 [mlp/down] 1024→4096: Exact(), candidates=1664, group=1
