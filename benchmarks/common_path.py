"""The common path of a feed-forward block: neurons that are nearly always active, computed without being predicted.

    python -m benchmarks.common_path [--dtype bfloat16] [--layers 2] [--rounds 30]

Random ReLU layers of 2048 → 8192 in which a bias makes every sixteenth neuron active in every call; calibrated, 9 %
computed, rank 256. Both steps compute as many neurons; one has them all predicted, the other takes what calibration
says for granted. Times are interleaved medians of a layer.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.timing import interleaved, median_ms, print_table

D, WIDTH = 2048, 8192
Layer = dict[str, jax.Array]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), options.dtype)

    bias = jnp.asarray(np.where(np.arange(WIDTH) % 16 == 3, 6.0, -2.0), options.dtype)
    layers = [
        {"up": random(WIDTH, D) / D**0.5, "down": random(WIDTH, D) / (10 * WIDTH**0.5), "bias": bias}
        for _ in range(options.layers)
    ]
    batches = [(layers, random(64, D)) for _ in range(2)]
    calibration = hire.calibrate(stack, batches, kind="ffn")
    x = random(1, D)
    runs, rows = {}, []
    for name, common in (("all predicted", 0), ("common path by calibration", None)):
        predictor = hire.LowRank(rank=256, dtype=options.dtype)
        rule = hire.Rule(kind="ffn", predictor=predictor, density=0.09, group=1, common=common)
        step = hire.transform(jax.jit(stack), hire.Config(rules=(rule,)), calibration=calibration)
        jax.block_until_ready(step(layers, x))
        runs[name] = lambda step=step: step(layers, x)
        decision = step.report().decisions[0]
        rows.append([name, str(decision.candidates), str(decision.common)])
    seconds = interleaved(runs, options.rounds)
    rows = [[*row, f"{median_ms(seconds[row[0]]) / options.layers:.3f}"] for row in rows]
    print_table(f"relu {D}→{WIDTH} {options.dtype}, a layer", ["step", "neurons", "always", "ms"], rows)


def stack(layers: list[Layer], x: jax.Array) -> jax.Array:
    """The layers, one after the other, with a residual."""
    for w in layers:
        x = x + jax.nn.relu(x @ w["up"].T + w["bias"]) @ w["down"]
    return x


if __name__ == "__main__":
    main()
