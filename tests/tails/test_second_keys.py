"""What stands first among equal logits is the author's choice: a sort may have a second key."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from tests.support.drawn import drawn

V, D = 1024, 16
STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict"),)
)


def counted(z: jax.Array) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, z.shape, 1)


def last_of_equals(z: jax.Array) -> jax.Array:
    return lax.sort((-z, -counted(z)), num_keys=2)[1][:, 0]


def noise_breaks_ties(z: jax.Array) -> jax.Array:
    return jnp.lexsort((jax.random.uniform(jax.random.key(3), z.shape), -z))[:, 0]


def rounded_first(z: jax.Array) -> jax.Array:
    return last_of_equals(jnp.round(z.astype(jnp.float32) * 4))


@pytest.mark.parametrize(
    "read",
    [
        last_of_equals,
        pytest.param(noise_breaks_ties, marks=pytest.mark.slow),
        pytest.param(rounded_first, marks=pytest.mark.slow),
    ],
)
def test_a_second_key_ranks_equal_logits_as_in_dense(
    read: Callable[[jax.Array], jax.Array], rng: np.random.Generator
) -> None:
    w = jnp.asarray(np.repeat(rng.normal(size=(V // 8, D)), 8, axis=0)[rng.permutation(V)], jnp.bfloat16)
    dense = jax.jit(lambda w, x: read(x @ w.T))
    step = hire.transform(dense, STRICT)
    for _ in range(12):
        x = drawn(rng.normal(size=(4, D)), jnp.bfloat16)
        assert np.array_equal(step(w, x), dense(w, x))
    assert step.report().rewritten
