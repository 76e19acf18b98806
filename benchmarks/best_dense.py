"""The best dense form of a decode step that XLA offers here, pinned: the honest baseline.

A rewritten step is compared with the program as its author wrote it *and* with the fastest dense form of the
same arithmetic. The forms differ in what XLA:CPU is sensitive to: which operand is transposed, and how the
winner is taken out of the logits. Feed-forward blocks: ``best_dense_ffn.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from examples.models import Model

Head = Callable[[jax.Array, jax.Array], jax.Array]


def _rows_dot(x: jax.Array, rows: jax.Array) -> jax.Array:
    return lax.dot_general(x, rows, (((1,), (1,)), ((), ())))


def _transposed_dot(x: jax.Array, rows: jax.Array) -> jax.Array:
    return lax.dot_general(x, rows.T, (((1,), (0,)), ((), ())))


def _argmax(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _top_one(logits: jax.Array) -> jax.Array:
    return lax.top_k(logits, 1)[1][:, 0]


HEADS: dict[str, Head] = {
    "rows dot, argmax": lambda x, rows: _argmax(_rows_dot(x, rows)),
    "transposed dot, argmax": lambda x, rows: _argmax(_transposed_dot(x, rows)),
    "rows dot, top_k(1)": lambda x, rows: _top_one(_rows_dot(x, rows)),
    "transposed dot, top_k(1)": lambda x, rows: _top_one(_transposed_dot(x, rows)),
}


def _wide(rows: jax.Array) -> jax.Array:
    bits = rows.dtype == jnp.uint16
    return (lax.bitcast_convert_type(rows, jnp.bfloat16) if bits else rows).astype(jnp.float32)


def _chunked(x: jax.Array, rows: jax.Array, size: int = 1024) -> jax.Array:
    """Chunks that become float32 while they are in the cache; the loop sees bits, or XLA:CPU would convert them all."""

    def some(i: jax.Array) -> jax.Array:
        return _rows_dot(x, _wide(lax.dynamic_slice_in_dim(rows, i * size, size)))

    return lax.map(some, jnp.arange(len(rows) // size)).transpose(1, 0, 2).reshape(x.shape[0], -1)


def _one_by_one(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.concatenate([_transposed_dot(row, _wide(rows)) for row in jnp.split(x, len(x))])


def dense_heads(rows: jax.Array, batch: int) -> dict[str, tuple[Head, jax.Array]]:
    """Every dense form of a greedy head, and the rows ``[n, d]`` as it wants them.

    Logits are rounded to the type of the rows, as the author's product rounds them.
    """
    if rows.dtype == jnp.float32:
        return {f"dense, {name}": (head, rows) for name, head in HEADS.items()}
    bits = lax.bitcast_convert_type(rows, jnp.uint16)
    products = {"wide transposed dot": (lambda x, w: _transposed_dot(x, _wide(w)), rows)}
    if batch > 1:
        products |= {"row by row": (_one_by_one, rows), "chunks in the cache": (_chunked, bits)}

    def head(product: Head) -> Head:
        return lambda x, w: _argmax(product(x.astype(jnp.float32), w).astype(rows.dtype))

    found = {f"dense, {name}, argmax": (head(product), stored) for name, (product, stored) in products.items()}
    return found | {f"dense, {name}": (HEADS[name], rows) for name in ("rows dot, argmax", "transposed dot, argmax")}


def dense_steps(model: Model, batch: int = 1) -> dict[str, Callable[..., Any]]:
    """Every dense form of the greedy step, jitted with the cache donated."""

    def step_with(head: Head, stored: jax.Array) -> Callable[..., Any]:
        def step(stored: jax.Array, params: Any, tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            x, cache = model.hidden_states(params, tokens, cache)
            return head(x[:, -1], stored), cache

        return partial(jax.jit(step, donate_argnums=3), stored)

    heads = dense_heads(model.params["embed"], batch)
    return {name: step_with(head, stored) for name, (head, stored) in heads.items()}
