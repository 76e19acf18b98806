// With dense_forms=True a bfloat16 product that stays dense is spelled as the processor reads it best. This one lies by
// columns: eight rows at a time are gathered as bits and summed. No site and no prepared array is needed.

// ===== input
func.func public @main(%x: tensor<1x256xbf16>, %w: tensor<256x512xbf16>) -> tensor<1x512xbf16> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<1x256xbf16>, tensor<256x512xbf16>) -> tensor<1x512xbf16> loc("attention/q/dot_general")
  return %0 : tensor<1x512xbf16>
}

// ===== config
Config(dense_forms=True)

// ===== report
hire_compiler: on, 1 product respelled, no site rewritten
  dense    1 product, 0.3 MB a call: read by columns, eight rows at a time; the
             same products, summed in another order
  why not? its 512 rows for 256 inputs are returned but are no vocabulary
             [attention/q]
arguments of the step: arg0, arg1, and prepared:

// ===== output
module {
  func.func public @main(%arg0: tensor<1x256xbf16>, %arg1: tensor<256x512xbf16>) -> tensor<1x512xbf16> {
    %0 = call @hire_site(%arg1, %arg0) : (tensor<256x512xbf16>, tensor<1x256xbf16>) -> tensor<1x512xbf16>
    return %0 : tensor<1x512xbf16>
  }
  func.func private @hire_site(%arg0: tensor<256x512xbf16>, %arg1: tensor<1x256xbf16>) -> (tensor<1x512xbf16>) {
    … gather 256x512xui16 → 32x512xui16  ×8
    … dot_general 1x32xf32, 32x512xf32 → 1x512xf32
  }
}
