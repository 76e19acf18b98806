// The first rule that selects a site decides it; sites that no rule selects get the default. A regular expression
// over the scope path selects the block; the head is left as it is by a rule of its own.

// ===== input
func.func public @main(%x: tensor<1x8xf32>, %gate: tensor<8x32xf32>, %up: tensor<8x32xf32>, %down: tensor<32x8xf32>, %embed: tensor<4096x8xf32>) -> tensor<1x1xi32> {
  %0 = stablehlo.dot_general %x, %gate, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("layer_0/gate/dot_general")
  %1 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0] : (tensor<1x8xf32>, tensor<8x32xf32>) -> tensor<1x32xf32> loc("layer_0/up/dot_general")
  %2 = stablehlo.logistic %0 : tensor<1x32xf32>
  %3 = stablehlo.multiply %0, %2 : tensor<1x32xf32>
  %4 = stablehlo.multiply %3, %1 : tensor<1x32xf32>
  %5 = stablehlo.dot_general %4, %down, contracting_dims = [1] x [0] : (tensor<1x32xf32>, tensor<32x8xf32>) -> tensor<1x8xf32> loc("layer_0/down/dot_general")
  %z = stablehlo.dot_general %5, %embed, contracting_dims = [1] x [1] : (tensor<1x8xf32>, tensor<4096x8xf32>) -> tensor<1x4096xf32> loc("logits/dot_general")
  %values, %ids = chlo.top_k(%z, k = 1) : tensor<1x4096xf32> -> (tensor<1x1xf32>, tensor<1x1xi32>)
  return %ids : tensor<1x1xi32>
}

// ===== config
Config(rules=(Rule(kind="ffn", path="layer_0", predictor=LowRank(rank=2), density=0.25), Rule(kind="head", dense=True)))

// ===== report
hire_compiler: on, 1 of 2 sites rewritten, 0.1 MB → 0.1 MB read a call
  on?      ffn/0: gated silu 8→32 float32 batch 1
             LowRank(rank=2, bfloat16), 8 of 32 rows exact in groups of 8; 3.1
               kB → 1.0 kB read a call, 2.2 kB added
  right?   ffn/0: approximate: neurons outside the selection count as zero
  why not? head/0: top_k 8→4096 float32 batch 1
             left dense: rule 1 says so
  note     ffn/0: not calibrated, so the factors are a plain SVD, which finds
             few of the right rows on real models: calibrate with
             hire.calibrate(…)

// ===== plan
cpu: ffn/0 [layer_0/down] 8→32: LowRank(rank=2, bfloat16), candidates=8, group=8
cpu: head/0 [logits] 8→4096: dense, rule 1 says so
