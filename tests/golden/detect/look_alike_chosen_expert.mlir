// Where a router's choice is read out of the stack of experts, the program leaves the others out by itself.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %router: tensor<8x4xf32>, %experts: tensor<4x8x16xf32>) -> tensor<1x16xf32> {
  %0 = stablehlo.dot_general %x, %router, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x4xf32>) -> tensor<1x4xf32> loc("moe/router/dot_general")
  %best, %which = chlo.top_k(%0, k = 1) : tensor<1x4xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  %1 = stablehlo.reshape %which : (tensor<1x1xi32>) -> tensor<i32>
  %c = stablehlo.constant dense<0> : tensor<i32>
  %2 = stablehlo.dynamic_slice %experts, %1, %c, %c, sizes = [1, 8, 16] : (tensor<4x8x16xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x16xf32>
  %3 = stablehlo.reshape %2 : (tensor<1x8x16xf32>) -> tensor<8x16xf32>
  %4 = stablehlo.dot_general %x, %3, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x16xf32>) -> tensor<1x16xf32> loc("moe/expert/dot_general")
  return %4 : tensor<1x16xf32>
}

// ===== report
hire_compiler: 0 sites, 2 misses
  miss     its 4 rows are no more than its 8 inputs: too few to choose some of
             them  [moe/router]
  miss     it is one of 4 parameters, picked by what was computed (an expert of
             a router)  [moe/expert]
