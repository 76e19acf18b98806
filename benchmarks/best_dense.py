"""The best dense form of a decode step that XLA offers here, pinned: the honest baseline.

A rewritten step is compared with the program as its author wrote it *and* with the fastest dense form of the
same arithmetic. The forms differ in what XLA:CPU is sensitive to: which operand is transposed, and how the
winner is taken out of the logits. Feed-forward blocks: ``best_dense_ffn.py``.
"""

from __future__ import annotations

from collections.abc import Callable
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


def dense_steps(model: Model) -> dict[str, Callable[..., Any]]:
    """Every dense form of the greedy step, jitted with the cache donated."""

    def step_with(head: Head) -> Callable[..., Any]:
        def step(params: Any, tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            x, cache = model.hidden_states(params, tokens, cache)
            return head(x[:, -1], params["embed"]), cache

        return jax.jit(step, donate_argnums=2)

    return {f"dense, {name}": step_with(head) for name, head in HEADS.items()}
