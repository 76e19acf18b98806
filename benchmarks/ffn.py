"""Feed-forward stacks through ``transform``, against every dense form of them, with the bytes that each must read.

python -m benchmarks.ffn [--block relu|reglu|gemma3n] [--dtype float32|bfloat16|int8] [--batch 1] [--exact] …

The byte limit is the speed-up if both ran at equal memory bandwidth. Weights are random, so this is
speed at a given density, not quality. ``--exact`` shifts a bias so that the given share of neurons is active and uses
``Exact()``, which needs no predictor; so does ``--block gemma3n``, whose statistical cut lets 5 % pass, without a rule.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks import best_dense_int8
from benchmarks.best_dense_ffn import Block, Layer, as_written, dense_forms, random_layers
from benchmarks.timing import interleaved, median_ms, print_table


def _above_cut(g: jax.Array) -> jax.Array:
    """The statistical top-k of Gemma 3n: a twentieth of the neurons passes."""
    wide = g.astype(jnp.float32)
    cut = jnp.mean(wide, -1, keepdims=True) + NormalDist().inv_cdf(0.95) * jnp.std(wide, -1, keepdims=True)
    return jax.nn.gelu(jax.nn.relu(g - cut.astype(g.dtype)))


BLOCKS = {
    "relu": (Block(jax.nn.relu, gated=False), 8192),
    "reglu": (Block(jax.nn.relu, gated=True), 5632),
    "gemma3n": (Block(_above_cut, gated=True), 8192),
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", default="relu", choices=BLOCKS)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--width", type=int, default=0, help="default 8192 (relu) or 5632 (reglu)")
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--densities", default="0.05,0.09,0.2")
    parser.add_argument("--exact", action="store_true", help="Exact() on a block of which that share is active")
    parser.add_argument("--scan", action="store_true", help="also the stack under lax.scan, at the middle density")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    block, width = BLOCKS[options.block]
    width = options.width or width
    densities = [float(f) for f in options.densities.split(",")]
    if options.exact:
        block = Block(few_active(densities[0]), block.gated)
    layers, dense, written = _stack(block, width, options)
    dtype = "float32" if options.dtype == "int8" else options.dtype
    x = jnp.asarray(np.random.default_rng(1).normal(size=(options.batch, options.d)), dtype)
    runs: dict[str, Callable[[], Any]] = {}
    nbytes: dict[str, int] = {}
    dense_bytes = best_dense_int8.nbytes(layers[0])
    for name, (form, stored) in dense.items():
        runs[name] = lambda form=form, stored=stored: form(stored, x)
        nbytes[name] = dense_bytes
    default = options.block == "gemma3n"
    densities = [0.05] if default else densities
    rules = {density: None if default else _rule(density, options) for density in densities}
    for density, rule in rules.items():
        name = f"hire, {density:.0%}" + (" active, Exact()" if options.exact or default else " kept")
        runs[name], nbytes[name] = _rewritten(jax.jit(written), layers, x, rule)
    if options.scan:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        middle = sorted(densities)[len(densities) // 2]
        scan = _scanned(written)
        name = f"hire, scanned stack, {middle:.0%}"
        runs[name], nbytes[name] = _rewritten(jax.jit(scan), stacked, x, rules[middle])
    seconds = interleaved(runs, options.rounds)
    _print(options, width, {name: median_ms(t) / options.layers for name, t in seconds.items()}, nbytes, dense_bytes)


def _stack(block: Block, width: int, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The layers, every dense form of them, and the form as written."""
    if options.dtype == "int8":
        quantised = best_dense_int8.random_layers(block, options.layers, options.d, width)
        return quantised, best_dense_int8.dense_forms(quantised, block), best_dense_int8.as_written(block)
    layers = random_layers(block, options.layers, options.d, width, options.dtype)
    return layers, dense_forms(layers, block, options.batch), as_written(block)


def few_active(share: float) -> Callable[[jax.Array], jax.Array]:
    """ReLU after a shift that leaves about this share of a normal pre-activation."""
    shift = NormalDist().inv_cdf(share)
    return lambda z: jax.nn.relu(z + jnp.asarray(shift, z.dtype))


def _rule(density: float, options: argparse.Namespace) -> hire.Rule:
    if options.exact:
        return hire.Rule(kind="ffn", predictor=hire.Exact(), density=1.25 * density, group=1)
    predictor = hire.LowRank(rank=options.rank, dtype=options.dtype)
    return hire.Rule(kind="ffn", predictor=predictor, density=density, group=8)


def _rewritten(
    function: Callable[..., Any], weights: Any, x: jax.Array, rule: hire.Rule | None
) -> tuple[Callable[[], Any], int]:
    step = hire.transform(function, hire.Config(rules=() if rule is None else (rule,)))
    began = time.perf_counter()
    jax.block_until_ready(step(weights, x))
    decision = step.report().decisions[0]
    seconds = time.perf_counter() - began
    print(f"{decision.predictor}, {decision.candidates} neurons: rewritten, prepared, compiled in {seconds:.1f} s")
    if decision.action != "rewritten":
        raise SystemExit(f"left dense: {decision.reason}")
    return lambda: step(weights, x), decision.sparse_bytes


def _scanned(stack: Callable[[list[Layer], jax.Array], jax.Array]) -> Callable[[Layer, jax.Array], jax.Array]:
    def scanned(layers: Layer, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (stack([w], x), None), x, layers)[0]

    return scanned


def _print(
    options: argparse.Namespace, width: int, ms: dict[str, float], nbytes: dict[str, int], dense_bytes: int
) -> None:
    best = min(t for name, t in ms.items() if name.startswith("dense"))
    written = ms["dense, as written"]
    rows = []
    for name, t in ms.items():
        limit = dense_bytes / nbytes[name]
        reached = "" if name.startswith("dense") else f"{limit:.2f}×"
        share = "" if name.startswith("dense") else f"{best / t / limit:.0%}"
        row = [name, f"{t:.3f}", f"{nbytes[name] / t / 1e6:.1f}", f"{written / t:.2f}×", f"{best / t:.2f}×"]
        rows.append([*row, reached, share])
    title = f"{options.block} {options.d}→{width} {options.dtype}, rank {options.rank}, batch {options.batch}, a layer"
    header = ["form", "ms", "GB/s", "over as written", "over best dense", "byte limit", "of the limit"]
    print_table(title, header, rows)


if __name__ == "__main__":
    main()
