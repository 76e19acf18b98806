// A weight that the module holds as a constant becomes its first argument, like any weight that is given; so it can be
// prepared once. Numbers that are no weight (here an epsilon) stay.

// ===== input
func.func public @main(%x: tensor<64xf32>) -> tensor<64xf32> {
  %scale = stablehlo.constant dense<"0x361830381A0210201F193A3235131E1625393A0D2008120830062733103A222D3326390913062E0439362B151E2306161B1427283A0D231E1C37211003333A233A00052E35192D34322A2800271F3437150F2E142D37040C3A240E0F330933221C05051438203B1F061323122D072315343B220D33262325121C0526331814240F120B0C340B02272A101E04052B300838093B023505392C3B35222B19352D211121330F360D392B25341A25111C1F2A292C3A3216051427071F252815360C0F012E11072D0E17320A151B3403063209362C0E023424283A3B22262B040107280C2635240719051735070226010C0B2D071E0D2E33033B2B01221B2706351004"> : tensor<64xf32>
  %epsilon = stablehlo.constant dense<1.0e-6> : tensor<64xf32>
  %0 = stablehlo.multiply %x, %scale : tensor<64xf32>
  %1 = stablehlo.add %0, %epsilon : tensor<64xf32>
  return %1 : tensor<64xf32>
}

// ===== types
64xf32

// ===== report
stablehlo.constant: 2 → 1
constants that are arguments now: 1

// ===== output
module {
  func.func public @main(%arg0: tensor<64xf32>, %arg1: tensor<64xf32>) -> tensor<64xf32> {
    %cst = stablehlo.constant dense<9.99999997E-7> : tensor<64xf32>
    %0 = stablehlo.multiply %arg1, %arg0 : tensor<64xf32>
    %1 = stablehlo.add %0, %cst : tensor<64xf32>
    return %1 : tensor<64xf32>
  }
}
