"""A ReLU stack through ``transform``, against every dense form of it.

python -m benchmarks.ffn [--dtype float32] [--layers 4] [--d 2048] [--width 8192] [--rank 256]
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.best_dense import relu_as_written, relu_forms
from benchmarks.timing import interleaved, median_ms, print_table


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), options.dtype)

    layers = [
        {"up": random(options.d, options.width), "down": random(options.width, options.d)}
        for _ in range(options.layers)
    ]
    x = jnp.asarray(rng.normal(size=(1, options.d)), options.dtype)
    forms = relu_forms(layers)
    runs = {name: (lambda f=f, w=w: f(w, x)) for name, (f, w) in forms.items()}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    for density in (0.05, 0.09, 0.2, 0.5):
        rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=options.rank, dtype=options.dtype), density=density)
        step = hire.transform(jax.jit(relu_as_written), hire.Config(rules=(rule,)))
        began = time.perf_counter()
        jax.block_until_ready(step(layers, x))
        print(f"{density:.0%} kept: lowered, rewritten, prepared, compiled in {time.perf_counter() - began:.1f} s")
        runs[f"hire, {density:.0%} kept"] = lambda s=step: s(layers, x)
    scan_rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=options.rank, dtype=options.dtype), density=0.09)
    scan = hire.transform(_scanned, hire.Config(rules=(scan_rule,)))
    dense_scan = jax.jit(_scanned)
    runs["dense, scanned stack"] = lambda: dense_scan(stacked, x)
    runs["hire, scanned stack, 9% kept"] = lambda: scan(stacked, x)
    ms = {name: median_ms(t) / options.layers for name, t in interleaved(runs, options.rounds).items()}
    best = min(ms[name] for name in ms if name.startswith("dense"))
    written = ms["dense, as written [in, out]"]
    rows = [[name, f"{t:.3f}", f"{written / t:.2f}×", f"{best / t:.2f}×"] for name, t in ms.items()]
    title = f"ReLU {options.d}→{options.width} {options.dtype}, rank {options.rank}, groups of 8, batch 1, a layer"
    print_table(title, ["form", "ms", "over as written", "over best dense"], rows)


def _scanned(layers: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        return relu_as_written([w], x), None

    return jax.lax.scan(layer, x, layers)[0]


if __name__ == "__main__":
    main()
