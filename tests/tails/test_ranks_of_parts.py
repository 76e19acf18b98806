"""What ranks say holds of the values that were sorted, and where none of them is NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

V, D = 2048, 32
STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=192, certify="strict"),)
)


@pytest.mark.slow
def test_a_threshold_of_a_part_of_the_vocabulary_is_no_rank_of_the_whole(rng: np.random.Generator) -> None:
    """The eighth of the first half is not the eighth of all: more of the first half are kept."""

    def step(w: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        z = x @ w.T
        cut = jnp.sort(z[:, : V // 2], axis=-1)[:, -8][:, None]
        return jax.random.categorical(key, jnp.where(z < cut, -jnp.inf, 0.0 * z), axis=-1)

    fast, dense = hire.transform(step, STRICT), jax.jit(step)
    w = drawn(rng.normal(size=(V, D)), jnp.float32)
    for call in range(20):
        x = drawn(rng.normal(size=(4, D)), jnp.float32)
        np.testing.assert_array_equal(fast(w, x, jax.random.key(call)), dense(w, x, jax.random.key(call)))
    assert len(fast.report().rewritten) == 1


def test_beside_a_nan_nothing_is_less_than_the_largest(rng: np.random.Generator) -> None:
    """The largest is NaN then, and no comparison with it holds."""

    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        z = jnp.sqrt(x @ w.T)
        return jnp.any((z < jnp.sort(z, axis=-1)[:, -1:]) & (jnp.arange(V) == 5), axis=-1)

    fast, dense = hire.transform(step, STRICT), jax.jit(step)
    w = np.abs(rng.normal(size=(V, D)))
    w[5] *= 1.5  # a candidate, not the best
    x = jnp.asarray(np.abs(rng.normal(size=(2, D))), jnp.float32)
    for row in (None, 900):
        if row is not None:
            w[row] = -1.0
        weights = jnp.asarray(w, jnp.float32)
        np.testing.assert_array_equal(fast(weights, x), dense(weights, x))


@pytest.mark.slow
def test_a_largest_that_stands_twice_is_found_first(rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = x @ w.T
        largest = z == jnp.max(z, axis=-1, keepdims=True)
        return jnp.argmax(largest, axis=-1), jnp.sum(largest, axis=-1)

    fast, dense = hire.transform(step, STRICT), jax.jit(step)
    w = rng.normal(size=(V, D))
    w[V // 2 :] = w[: V // 2]
    for rows in (w, w[: V // 2].repeat(2, axis=0), rng.normal(size=(V, D))):
        weights = jnp.asarray(rows, jnp.float32)
        for _ in range(4):
            x = drawn(rng.normal(size=(3, D)), jnp.float32)
            jax.tree.map(np.testing.assert_array_equal, fast(weights, x), dense(weights, x))
    (proof,) = fast.report().certificates
    assert proof.proven >= 10  # of twelve rows without ties
