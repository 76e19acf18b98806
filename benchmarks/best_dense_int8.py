"""The best dense forms of a feed-forward stack whose weights are int8 with a scale for each channel, on XLA:CPU.

A weight is a pair: numbers ``[in, out]`` and scales ``[out]``. What the forms differ in is how the numbers lie, where
they become float32, and whether the scale stands before the product or behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.best_dense_ffn import Block, normalize

Weight = tuple[Any, jax.Array]
Weights = list[dict[str, Weight]]
Product = Callable[[jax.Array, Weight], jax.Array]


def _behind(x: jax.Array, weight: Weight) -> jax.Array:
    """As written: the scale behind the product."""
    q, s = weight
    return (x @ q.astype(x.dtype)) * s


def _before(x: jax.Array, weight: Weight) -> jax.Array:
    q, s = weight
    return x @ (q.astype(x.dtype) * s)


def _rows(x: jax.Array, weight: Weight) -> jax.Array:
    """Of rows ``[out, in]``: converted on the way to a matrix-vector product, which takes vectors below 16 KiB."""
    parts, s = weight
    width = parts[0].shape[1]
    sums = [
        lax.optimization_barrier(jnp.dot(x[:, i * width : (i + 1) * width], q.astype(x.dtype).T))
        for i, q in enumerate(parts)
    ]
    return sum(sums[1:], sums[0]) * s


def _contracted(x: jax.Array, weight: Weight) -> jax.Array:
    q, s = weight
    return lax.dot_general(x, q.astype(x.dtype), (((1,), (1,)), ((), ()))) * s


def _keep(q: jax.Array) -> jax.Array:
    return q


def _by_rows(q: jax.Array) -> jax.Array:
    return q.T.copy()


def _parts(q: jax.Array) -> list[jax.Array]:
    return [part.T.copy() for part in jnp.split(q, -(-len(q) // 4096))]


_FORMS: dict[str, tuple[Callable[[jax.Array], Any], Product]] = {
    "as written": (_keep, _behind),
    "scaled before": (_keep, _before),
    "rows": (_parts, _rows),
    "rows contracted": (_by_rows, _contracted),
}


def dense_forms(layers: Weights, block: Block) -> dict[str, tuple[Callable[[Weights, jax.Array], jax.Array], Weights]]:
    """Every dense form of a stack, jitted, with the weights laid out as it wants them."""
    built = {}
    for name, (store, product) in _FORMS.items():
        stored = [{key: (store(q), s) for key, (q, s) in w.items()} for w in layers]
        built[f"dense, {name}"] = (jax.jit(stack_of(block, product)), stored)
    return built


def as_written(block: Block) -> Callable[[Weights, jax.Array], jax.Array]:
    """The stack as its author writes it."""
    return stack_of(block, _behind)


def stack_of(block: Block, product: Product) -> Callable[[Weights, jax.Array], jax.Array]:
    """The stack with one form of its products."""

    def stack(layers: Weights, x: jax.Array) -> jax.Array:
        for w in layers:
            h = block.hidden(lambda weight, x=x: product(x, weight), w)
            x = normalize(x + product(h, w["down"]))
        return x

    return stack


def random_layers(block: Block, count: int, d: int, width: int) -> Weights:
    """Random weights of the usual size."""
    rng = np.random.default_rng(0)

    def random(rows: int, columns: int) -> Weight:
        wide = rng.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))
        scale = np.abs(wide).max(0) / 127
        return jnp.asarray(np.round(wide / scale), jnp.int8), jnp.asarray(scale)

    names: tuple[str, ...] = ("gate", "up") if block.gated else ("up",)
    return [{**{name: random(d, width) for name in names}, "down": random(width, d)} for _ in range(count)]


def nbytes(weights: dict[str, Any]) -> int:
    """Bytes of a layer as it is stored."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
