// What a calibration counted decides what the rule leaves open: two neighbours are active most of the time, so
// neurons are taken in groups of two; the room (10) is what nearly every call needed, the smaller budget (2) what
// most calls did.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>) -> tensor<1x8xf32> {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("mlp/up/dot_general")
  %zero = stablehlo.constant dense<0.0> : tensor<1x32xf32>
  %1 = stablehlo.maximum %0, %zero : tensor<1x32xf32>
  %2 = stablehlo.dot_general %1, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("mlp/down/dot_general")
  return %2 : tensor<1x8xf32>
}

// ===== config
Config(rules=(Rule(kind="ffn", predictor=Exact()),))

// ===== calibration
Calibration(activities={"arg1|transpose(1, 0)": active(*[0.9] * 2, *[0.02] * 30)})

// ===== report
hire_compiler: on, 1 of 1 site rewritten, 2.0 kB → 1.5 kB read a call
  on?      ffn/0: relu 8→32 float32 batch 1
             Exact(), 10 of 32 rows exact in groups of 2; 2.0 kB → 1.5 kB read a
               call, 1.2 kB added
             calibrated: a call touches 7.3% of neurons, 9.7% of all groups of
               2, 36.0% of all groups of 8, 99.5% of all groups of 32
  right?   ffn/0: exact: only zeros are skipped, and where more neurons are
             active the dense block runs

// ===== plan
cpu: ffn/0 [mlp/down] 8→32: Exact(), candidates=10, group=2, budgets=[2]
