"""A doubt inside a loop is settled by the author's product, summed as XLA sums it in the author's loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

V, D, STEPS = 4096, 64, 4


def token(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ w.T, -1).astype(jnp.int32)


def fori(w: jax.Array, x: jax.Array) -> Any:
    start = jnp.zeros((STEPS, len(x)), jnp.int32)
    return jax.lax.fori_loop(0, STEPS, lambda i, out: out.at[i].set(token(w, x * (i + 1).astype(x.dtype))), start)


def scan(w: jax.Array, x: jax.Array) -> Any:
    def body(last: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        last = token(w, x + w[last])
        return last, last

    return jax.lax.scan(body, jnp.zeros((len(x),), jnp.int32), None, length=STEPS)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("loop", [fori, scan], ids=lambda loop: loop.__name__)
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_that_overflow_in_a_loop_are_those_of_dense(
    dtype: str, loop: Any, batch: int, rng: np.random.Generator
) -> None:
    """Which of them become infinite, and which NaN, depends on the order of their sums."""
    size = float(jnp.finfo(dtype).max) ** 0.5
    w = drawn(rng.normal(size=(V, D)) * size, dtype)
    dense, sparse = jax.jit(loop), hire.transform(jax.jit(loop))
    for _ in range(6):
        x = drawn(rng.normal(size=(batch, D)) * size * 0.2, dtype)
        for got, wanted in zip(jax.tree.leaves(sparse(w, x)), jax.tree.leaves(dense(w, x)), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert len(sparse.report().rewritten) == 1
    assert sparse.report().certificates[0].proven < sparse.report().certificates[0].rows
