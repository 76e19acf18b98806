// Tokens that a request forbids are overwritten with −inf in the logits (a scatter at given places). That is repeated on
// the bounds of all rows and on the candidates, so a forbidden token is neither chosen nor in the way of a proof.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %embed: tensor<128x8xf32>, %forbidden: tensor<3x1xi32>) -> tensor<1x2xi32> {
  %0 = stablehlo.dot_general %x, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<128x8xf32>) -> tensor<1x128xf32> loc("logits/dot_general")
  %never = stablehlo.constant dense<0xFF800000> : tensor<1x3xf32>
  %z = "stablehlo.scatter"(%0, %forbidden, %never) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [0], inserted_window_dims = [1], scatter_dims_to_operand_dims = [1], index_vector_dim = 1>}> ({
  ^bb0(%old: tensor<f32>, %new: tensor<f32>):
    stablehlo.return %new : tensor<f32>
  }) : (tensor<1x128xf32>, tensor<3x1xi32>, tensor<1x3xf32>) -> tensor<1x128xf32>
  %values, %ids = chlo.top_k(%z, k = 2) : tensor<1x128xf32> -> (tensor<1x2xf32>, tensor<1x2xi32>)
  return %ids : tensor<1x2xi32>
}

// ===== config
Config(rules=(Rule(kind="head", predictor=Quantized(bits=8), candidates=8, certify="strict"),))

// ===== setting
bodies: heads

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 4.1 kB → 2.3 kB read a call
  on?      head/0: top_k 8→128 float32 batch 1
             Quantized(bits=8), 8 of 128 rows exact; 4.1 kB → 2.3 kB read a
               call, 2.8 kB added
  right?   head/0: certified: the winners are proven in the order of dense at
             run time, else the dense product runs
arguments of the step: arg0, arg1, arg2, and prepared:
  %arg3 is blocks, from arg1
  %arg4 is bound, from arg1
  %arg5 is norm, from arg1
  %arg6 is q, from arg1
  %arg7 is scale, from arg1
results of the step: the author's, and proof of head/0

// ===== output
module {
  func.func public @main(%arg0: tensor<1x8xf32>, %arg1: tensor<128x8xf32>, %arg2: tensor<3x1xi32>, %arg3: tensor<128x1xui16>, %arg4: tensor<128xf32>, %arg5: tensor<128xf32>, %arg6: tensor<128x8xi8>, %arg7: tensor<128xf32>) -> (tensor<1x2xi32>, tensor<2xf32>) {
    %cst = stablehlo.constant dense<0xFF800000> : tensor<1x3xf32>
    %cst_0 = stablehlo.constant dense<0.000000e+00> : tensor<1x128xf32>
    %0 = "stablehlo.scatter"(%cst_0, %arg2, %cst) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [0], inserted_window_dims = [1], scatter_dims_to_operand_dims = [1], index_vector_dim = 1>}> ({
    ^bb0(%arg8: tensor<f32>, %arg9: tensor<f32>):
      stablehlo.return %arg9 : tensor<f32>
    }) : (tensor<1x128xf32>, tensor<3x1xi32>, tensor<1x3xf32>) -> tensor<1x128xf32>
    %cst_1 = stablehlo.constant dense<1.000000e+00> : tensor<1x128xf32>
    %1 = "stablehlo.scatter"(%cst_1, %arg2, %cst) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [0], inserted_window_dims = [1], scatter_dims_to_operand_dims = [1], index_vector_dim = 1>}> ({
    ^bb0(%arg8: tensor<f32>, %arg9: tensor<f32>):
      stablehlo.return %arg9 : tensor<f32>
    }) : (tensor<1x128xf32>, tensor<3x1xi32>, tensor<1x3xf32>) -> tensor<1x128xf32>
    %2:3 = call @hire_site(%arg3, %arg4, %arg5, %arg6, %arg7, %arg1, %arg0, %0, %1, %arg0, %arg1, %arg2) : (tensor<128x1xui16>, tensor<128xf32>, tensor<128xf32>, tensor<128x8xi8>, tensor<128xf32>, tensor<128x8xf32>, tensor<1x8xf32>, tensor<1x128xf32>, tensor<1x128xf32>, tensor<1x8xf32>, tensor<128x8xf32>, tensor<3x1xi32>) -> (tensor<1x2xf32>, tensor<1x2xi32>, tensor<2xf32>)
    return %2#1, %2#2 : tensor<1x2xi32>, tensor<2xf32>
  }
  func.func private @hire_author_0(%arg0: tensor<1x8xf32>, %arg1: tensor<128x8xf32>, %arg2: tensor<3x1xi32>) -> (tensor<1x2xf32>, tensor<1x2xi32>) { … }
  func.func private @hire_site(%arg0: tensor<128x1xui16>, %arg1: tensor<128xf32>, %arg2: tensor<128xf32>, %arg3: tensor<128x8xi8>, %arg4: tensor<128xf32>, %arg5: tensor<128x8xf32>, %arg6: tensor<1x8xf32>, %arg7: tensor<1x128xf32>, %arg8: tensor<1x128xf32>, %arg9: tensor<1x8xf32>, %arg10: tensor<128x8xf32>, %arg11: tensor<3x1xi32>) -> (tensor<1x2xf32>, tensor<1x2xi32>, tensor<2xf32>) { … }
}
