"""What stays dense, as written and respelled: a bfloat16 decode step of Gemma 3 270M's shape, random weights.

    python -m benchmarks.dense_forms --layers 4 --rows 32768

Norms, four projections, a gated GELU block, and a greedy head; layers under ``lax.scan`` and one after the other. The
cache and the attention over it are left out: they hold no weights. ``--clock cpu`` is for a machine that does other
work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hire_compiler as hire
from benchmarks.timing import interleaved, median_ms, print_table

D, WIDTH, QUERIES, KEYS = 640, 2048, 1024, 256
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Arrays = dict[str, jax.Array]
Step = Callable[[Any, jax.Array, jax.Array], jax.Array]


def normalized(x: jax.Array) -> jax.Array:
    """RMS normalization without a weight."""
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True))).astype(x.dtype)


def layer(x: jax.Array, w: Arrays) -> jax.Array:
    """A layer; a product stands where attention would mix the values of earlier tokens."""
    y = normalized(x)
    mixed = (y @ w["q"]) * jnp.tile(jnp.tanh(y @ w["k"]) * (y @ w["v"]), (1, QUERIES // KEYS))
    x = x + mixed @ w["o"]
    y = normalized(x)
    return x + (jax.nn.gelu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]


def scanned(w: Arrays, embed: jax.Array, token: jax.Array) -> jax.Array:
    """Layers under a scan."""
    x = lax.scan(lambda x, own: (layer(x, own), None), embed[token], w)[0]
    return jnp.argmax(normalized(x) @ embed.T, axis=-1)


def unrolled(layers: list[Arrays], embed: jax.Array, token: jax.Array) -> jax.Array:
    """Layers one after the other."""
    x = embed[token]
    for w in layers:
        x = layer(x, w)
    return jnp.argmax(normalized(x) @ embed.T, axis=-1)


def random_weights(count: int, rows: int) -> tuple[Arrays, jax.Array]:
    """Stacked weights of so many layers, ``[in, out]``, and the embedding."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-2])), jnp.bfloat16)

    shapes = {"q": (D, QUERIES), "k": (D, KEYS), "v": (D, KEYS), "o": (QUERIES, D)}
    shapes |= {"gate": (D, WIDTH), "up": (D, WIDTH), "down": (WIDTH, D)}
    return {name: normal(count, *shape) for name, shape in shapes.items()}, normal(rows, D)


def main() -> None:
    """Measure both spellings of the layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32768, help="of the vocabulary")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    w, embed = random_weights(options.layers, options.rows)
    one_by_one = [{name: array[i] for name, array in w.items()} for i in range(options.layers)]
    token = jnp.zeros(1, jnp.int32)
    cases: dict[str, tuple[Step, Any]] = {"scan": (scanned, w), "unrolled": (unrolled, one_by_one)}
    rows = []
    for name, (step, weights) in cases.items():
        steps: dict[str, Any] = {
            "as written": jax.jit(step),
            "the default": hire.transform(step),
            "dense_forms": hire.transform(step, hire.Config(dense_forms=True)),
        }
        runs = {how: (lambda run=run, weights=weights: run(weights, embed, token)) for how, run in steps.items()}
        taken = interleaved(runs, options.rounds, clock=CLOCKS[options.clock])
        ms = {how: median_ms(seconds) for how, seconds in taken.items()}
        rows += [[f"{name}, {how}", f"{t:.2f}", f"{ms['as written'] / t:.2f}×"] for how, t in ms.items()]
    print_table(f"{options.layers} layers, {options.rows} rows, bfloat16", ["step", "ms", "over as written"], rows)


if __name__ == "__main__":
    main()
