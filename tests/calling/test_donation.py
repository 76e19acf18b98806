"""What is donated to a transformed function is given away, and nothing else is."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.models import (
    CONFIG,
    HEAD,
    VOCABULARY,
    D,
    array,
    decode,
    head,
    rewritten,
    tokens,
)


def append(params: dict[str, Any], cache: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    return decode(params, t), cache.at[0].add(1)


@pytest.mark.diagonal
@pytest.mark.parametrize("options", [{"donate_argnums": 1}, {"donate_argnums": (1,)}, {"donate_argnames": "cache"}])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_donated_cache_is_given_away(
    options: dict[str, Any], by_name: bool, params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(append, **options), CONFIG), tokens(rng)
    for _ in range(2):
        cache = array(rng, 8, 5)
        wanted = np.asarray(cache)
        wanted = np.concatenate([wanted[:1] + 1, wanted[1:]])
        _, got = step(params, cache=cache, t=t) if by_name else step(params, cache, t)
        np.testing.assert_array_equal(got, wanted)
        assert cache.is_deleted()
    assert rewritten(step) == ["ffn/0", "head/0"]
    assert not params["embed"].is_deleted()


def test_the_memory_of_a_donated_cache_is_reused(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, cache = hire.transform(jax.jit(append, donate_argnums=1), CONFIG), array(rng, 800, 50)
    compiled = step.lower(params, cache, tokens(rng)).compile()
    assert compiled.memory_analysis().alias_size_in_bytes >= cache.nbytes


def test_nothing_is_given_away_unasked(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, cache, t = hire.transform(jax.jit(append), CONFIG), array(rng, 8, 5), tokens(rng)
    step(params, cache, t)
    assert not any(a.is_deleted() for a in jax.tree.leaves((params, cache, t)))


@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_a_donated_weight_is_state_and_not_a_site(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head, donate_argnums=1), hire.Config(rules=(HEAD,)))
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    wanted = head(x, w)
    np.testing.assert_array_equal(step(x, w), wanted)
    assert not step.report().sites
