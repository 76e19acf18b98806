"""What a transformed function costs beside its arithmetic: call, rewrite and import.

python -m benchmarks.overhead
"""

from __future__ import annotations

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.timing import interleaved, median_ms, print_table

LEAVES = 500


def main() -> None:
    """Run the benchmark."""
    rng = np.random.default_rng(0)
    params = {f"w{i:03}": jnp.asarray(rng.normal(size=(8, 8)), jnp.float32) for i in range(LEAVES - 2)}
    params |= {"head": jnp.asarray(rng.normal(size=(512, 64)), jnp.float32)}

    def step(params: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed = sum(params[f"w{i:03}"][0, 0] for i in range(LEAVES - 2))
        return jnp.argmax(x @ params["head"].T, axis=-1), mixed

    x = jnp.asarray(rng.normal(size=(1, 64)), jnp.float32)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=32)
    dense, sparse = jax.jit(step), hire.transform(jax.jit(step), hire.Config(rules=(rule,)))
    assert sparse.report(params, x).rewritten
    taken = interleaved(
        {"jax.jit": lambda: dense(params, x), "transformed": lambda: sparse(params, x)}, 2000, warmup=50
    )
    us = {name: median_ms(seconds) * 1e3 for name, seconds in taken.items()}
    extra = us["transformed"] - us["jax.jit"]
    rows = [[name, f"{value:.0f}"] for name, value in us.items()] + [["overhead", f"{extra:.0f}"]]
    print_table(f"A call with {LEAVES} array leaves", ["call", "µs"], rows)
    _rewriting()
    _importing()


def _rewriting() -> None:
    rng = np.random.default_rng(0)
    d, width, layers = 64, 256, 24
    params = [
        {"up": jnp.asarray(rng.normal(size=(d, width)), jnp.float32),
         "down": jnp.asarray(rng.normal(size=(width, d)), jnp.float32)}
        for _ in range(layers)
    ]  # fmt: skip

    def step(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        for w in params:
            x = x + jax.nn.relu(x @ w["up"]) @ w["down"]
        return x

    x = jnp.asarray(rng.normal(size=(1, d)), jnp.float32)
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=8), density=0.25)
    sparse = hire.transform(jax.jit(step), hire.Config(rules=(rule,)))
    stages = sparse.report(params, x).seconds
    lowered = sparse.lower(params, x)
    began = time.perf_counter()
    lowered.compile()
    compiling = time.perf_counter() - began
    rows = [[stage, f"{seconds:.3f}"] for stage, seconds in stages.items()]
    rows += [["all stages", f"{sum(stages.values()):.3f}"], ["XLA compilation of the result", f"{compiling:.3f}"]]
    print_table(f"Rewriting {layers} layers, every one a site", ["stage", "s"], rows)


def _importing(repeats: int = 7) -> None:
    def seconds(statement: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - began

    pairs = [(seconds("import jax"), seconds("import jax, hire_compiler")) for _ in range(repeats)]
    alone, both = np.median(pairs, axis=0)
    rows = [
        ["import jax", f"{alone:.2f}"],
        ["import jax, hire_compiler", f"{both:.2f}"],
        ["added", f"{both - alone:.2f}"],
    ]
    print_table("Import", ["statement", "s"], rows)


if __name__ == "__main__":
    main()
