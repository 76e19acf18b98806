"""The best dense form of a decode step that XLA offers here, pinned: the honest baseline.

A rewritten step is compared with the program as its author wrote it *and* with the fastest dense form of the
same arithmetic. The forms differ in what XLA:CPU is sensitive to: which operand is transposed, and how the
winner is taken out of the logits.
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


# --------------------------------------------------------------------------- ReLU stacks

Stack = list[dict[str, jax.Array]]


def normalize(x: jax.Array) -> jax.Array:
    """RMS normalization without a weight."""
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True))


def relu_as_written(layers: Stack, x: jax.Array) -> jax.Array:
    """The stack as most people write it: ``[in, out]`` weights."""
    for w in layers:
        x = normalize(x + jax.nn.relu(x @ w["up"]) @ w["down"])
    return x


def _relu_rows(layers: Stack, x: jax.Array) -> jax.Array:
    for w in layers:
        h = jax.nn.relu(lax.dot_general(x, w["up"], (((1,), (1,)), ((), ()))))
        x = normalize(x + lax.dot_general(h, w["down"], (((1,), (1,)), ((), ()))))
    return x


def _relu_mixed(layers: Stack, x: jax.Array) -> jax.Array:
    for w in layers:
        h = jax.nn.relu(lax.dot_general(x, w["up"], (((1,), (1,)), ((), ()))))
        x = normalize(x + h @ w["down"])
    return x


def _relu_rows_upcast(layers: Stack, x: jax.Array) -> jax.Array:
    # In bfloat16 the plain dot of XLA:CPU converts the whole weight first. This form fuses the conversion, as long
    # as the vector is shorter than 16 KiB: hence the parts.
    for w in layers:
        h = jax.nn.relu(_upcast_dot(x.astype(jnp.float32), w["up"]))
        x = normalize(x + _upcast_dot(h, w["down"]).astype(x.dtype))
    return x


def _upcast_dot(x: jax.Array, rows: jax.Array, part: int = 2048) -> jax.Array:
    parts = [slice(i, i + part) for i in range(0, x.shape[1], part)]
    return sum(x[:, at] @ rows[:, at].astype(jnp.float32).T for at in parts)


def relu_forms(layers: Stack) -> dict[str, tuple[Callable[..., Any], Stack]]:
    """Every dense form of a ReLU stack with the weights laid out as it wants them."""
    rows = [{"up": w["up"].T.copy(), "down": w["down"].T.copy()} for w in layers]
    mixed = [{"up": a["up"], "down": w["down"]} for a, w in zip(rows, layers, strict=True)]
    return {
        "dense, as written [in, out]": (jax.jit(relu_as_written), layers),
        "dense, rows [out, in]": (jax.jit(_relu_rows), rows),
        "dense, rows up, columns down": (jax.jit(_relu_mixed), mixed),
        "dense, rows [out, in], fused upcast": (jax.jit(_relu_rows_upcast), rows),
    }
