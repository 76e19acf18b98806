// recall= cannot be promised, only measured: with a calibration that did not try the rule's predictor the rule is refused,
// and the message says how to calibrate for it.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=LowRank(rank=1), recall=0.95, group=2),))

// ===== calibration
Calibration(moments={"arg1[8]": Moment(eye(8) * 1000, 1000)})

// ===== report
ConfigError: rule 0 on ffn/0 (mlp/down, 8→32): recall=0.95 has to be measured, and the calibration did not try
LowRank(rank=1, bfloat16), groups of 2, max: pass calibration=hire.calibrate(…, config=…) with this rule among
the config's

// ===== plan
none
