"""Whether the smallest of some numbers are the best: where they fall when the logits rise."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import hire_compiler as hire
from tests.support.detecting import why

X, W = jax.ShapeDtypeStruct((2, 32), jnp.float32), jax.ShapeDtypeStruct((2048, 32), jnp.float32)
T, U = jax.ShapeDtypeStruct((2, 1), jnp.float32), jax.ShapeDtypeStruct((2, 2048), jnp.float32)
Costs = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

FALLING: dict[str, Costs] = {
    "negated": lambda z, t, u: -z,
    "negated, then scaled": lambda z, t, u: -z / t,
    "scaled, then negated": lambda z, t, u: -(z / t),
    "taken from a constant": lambda z, t, u: 3 - z,
    "taken from a bias": lambda z, t, u: u - z,
    "taken from their largest": lambda z, t, u: z.max(-1, keepdims=True) - z,
    "times a negative constant": lambda z, t, u: z * -0.5,
    "times what was negated": lambda z, t, u: z * -t,
    "masked": lambda z, t, u: jnp.where(u > 0, -z, jnp.inf),
    "a surprise": lambda z, t, u: -jax.nn.log_softmax(z, axis=-1),
    "a race": lambda z, t, u: -jnp.log(u) * jnp.exp(-z),
    "noise over probabilities": lambda z, t, u: -jnp.log(u) / jax.nn.softmax(z, axis=-1),
    "turned twice more": lambda z, t, u: -(0 - (1 - z)),
    "changed at one place": lambda z, t, u: (-z).at[:, 3].set(0.0),
}
OTHERS: dict[str, Costs] = {
    "as they are": lambda z, t, u: z,
    "negated twice": lambda z, t, u: -(1 - z),
    "squared distances": lambda z, t, u: (z - t) ** 2,
    "distances": lambda z, t, u: jnp.abs(z - t),
    "of both kinds": lambda z, t, u: jnp.where(u > 0, z, -z),
}


@pytest.mark.parametrize("name", FALLING)
def test_the_smallest_of_what_falls_is_a_winner(name: str) -> None:
    report = hire.inspect(lambda x, w, t, u: jnp.argmin(FALLING[name](x @ w.T, t, u), axis=-1), X, W, T, U)
    assert [site.kind for site in report.sites] == ["head"]


@pytest.mark.parametrize("name", OTHERS)
def test_the_smallest_of_anything_else_is_no_winner(name: str) -> None:
    reason = why(lambda x, w, t, u: jnp.argmin(OTHERS[name](x @ w.T, t, u), axis=-1), "w", X, W, T, U)
    assert "not read as logits (it is read by argmin)" in reason
