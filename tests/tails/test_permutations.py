"""The permutation of a sort, sorted itself: ranks as a mask, and sorted masks that are put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.engine_tails import Request, best_of, request, sampled
from tests.support.hard_rows import V, check_tokens

LIST = np.arange(3, V, 2)


def ranks(z: jax.Array, *, descending: bool = False) -> jax.Array:
    return jnp.argsort(jnp.argsort(z, axis=-1, descending=descending), axis=-1)


def kept(z: jax.Array, check: jax.Array, q: Request) -> jax.Array:
    return sampled(jnp.where(check, z, -jnp.inf), q)


def among(z: jax.Array, q: Request) -> jax.Array:
    return kept(z, ranks(-z) < 8, q)


def nucleus_put_back(z: jax.Array, q: Request) -> jax.Array:
    """Of the best 30 the most likely: a mask over what is sorted goes back to where it stood."""
    z = best_of(z, 30)
    shares = jax.nn.softmax(jnp.sort(z, axis=-1, descending=True), axis=-1)
    keep = jnp.cumsum(shares, axis=-1) - shares < 0.9
    places = jnp.argsort(jnp.argsort(-z, axis=-1), axis=-1)
    return kept(z, jnp.take_along_axis(keep, places, axis=-1), q)


TAILS: dict[str, Callable[[jax.Array, Request], Any]] = {
    "ranks of what was negated": among,
    "ranks from the best": lambda z, q: kept(z, ranks(z, descending=True) < 8, q),
    "ranks from the worst": lambda z, q: kept(z, ranks(z) >= V - 8, q),
    "ranks of each request": lambda z, q: kept(z, ranks(-z / q["heat"][:, None]) < q["k"][:, None], q),
    "ranks of probabilities": lambda z, q: kept(z, ranks(-jax.nn.softmax(z, axis=-1)) < 8, q),
    "ranks among a list": lambda z, q: among(z[:, LIST], q),
    "the token of a rank": lambda z, q: jnp.argmax(ranks(-z) == 3, axis=-1),
    "the most likely, put back": nucleus_put_back,
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", TAILS)
def test_tokens_are_those_of_dense(name: str, rng: np.random.Generator) -> None:
    (proof,) = check_tokens(TAILS[name], request, rng, rows=96, batch=16).certificates
    assert proof.proven >= 0.8 * proof.rows


@pytest.mark.slow
@pytest.mark.parametrize("name", TAILS)
def test_tokens_are_on_thousands_of_rows(name: str, rng: np.random.Generator) -> None:
    check_tokens(TAILS[name], request, rng, rows=10_000, batch=16)


def test_a_part_of_a_permutation_gives_no_ranks(rng: np.random.Generator) -> None:
    """The order of the best few places is an order of those few alone."""

    def few(z: jax.Array, q: Request) -> jax.Array:
        return jnp.argsort(jnp.argsort(-z, axis=-1)[:, :6], axis=-1)

    check_tokens(few, request, rng, rows=48, batch=16)
