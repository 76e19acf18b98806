"""``approx_max_k`` and ``approx_min_k`` on a CPU, where XLA sorts instead: the winners are those of dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from tests.support.engine_tails import Request, request, sampled
from tests.support.hard_rows import D, V, check_tokens

TAILS: dict[str, Callable[[jax.Array, Request], Any]] = {
    "the best": lambda z, q: lax.approx_max_k(z, 6)[1],
    "the least of what was negated": lambda z, q: lax.approx_min_k(-z, 6)[1],
    "one of the best": lambda z, q: jnp.take_along_axis(
        lax.approx_max_k(z, 6)[1], sampled(lax.approx_max_k(z, 6)[0], q)[:, None], axis=-1
    ),
    "a mask by the last of the best": lambda z, q: sampled(
        jnp.where(z < lax.approx_max_k(z, 6)[0][:, -1:], -jnp.inf, z), q
    ),
    "more than the best": lambda z, q: lax.approx_max_k(z, 6, aggregate_to_topk=False)[1][:, :6],
    "along another dimension": lambda z, q: lax.approx_max_k(z.T, 6, reduction_dimension=0)[1],
    "each row by itself": lambda z, q: jax.vmap(lambda row: lax.approx_max_k(row, 6)[1])(z),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", TAILS)
def test_winners_are_those_of_dense(name: str, rng: np.random.Generator) -> None:
    (proof,) = check_tokens(TAILS[name], request, rng, rows=144, batch=16).certificates
    assert proof.proven >= 0.8 * proof.rows


@pytest.mark.slow
@pytest.mark.parametrize("name", TAILS)
def test_winners_are_on_thousands_of_rows(name: str, rng: np.random.Generator) -> None:
    check_tokens(TAILS[name], request, rng, rows=10_000, batch=16)


def _reason(platform: str, dtype: Any) -> str:
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        return lax.approx_max_k(x @ w.T, 6)[1]

    shapes = jax.ShapeDtypeStruct((V, D), dtype), jax.ShapeDtypeStruct((2, D), dtype)
    (decision,) = hire.transform(step, platform=platform).report(*shapes).decisions
    assert decision.action == "dense"
    return decision.reason


def test_where_the_platform_approximates_the_head_stays_dense() -> None:
    assert "an approximate top-k, which its platform computes in its own way, stands between" in _reason(
        "tpu", jnp.float32
    )


def test_narrow_numbers_are_not_ranked_by_their_bounds() -> None:
    assert "an approximate top-k of bfloat16 stands between" in _reason("cpu", jnp.bfloat16)
