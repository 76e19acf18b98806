"""Code that takes the smallest for the best: its tokens are those of dense, its proofs hold, also up to a number."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.engine_tails import TAILS, request
from tests.support.hard_rows import D, check_tokens, gaussian


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", ["the smallest surprise", "the smallest of a cost", "the cheapest four"])
def test_the_smallest_is_that_of_dense(name: str, rng: np.random.Generator) -> None:
    (proof,) = check_tokens(TAILS[name], request, rng, rows=144, batch=16).certificates
    assert proof.proven >= 0.8 * proof.rows


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TAILS if n.startswith(("the smallest", "the cheapest", "the first of a"))])
def test_it_is_on_thousands_of_rows(name: str, rng: np.random.Generator) -> None:
    check_tokens(TAILS[name], request, rng, rows=10_000, batch=16)


def test_a_rule_that_approximates_keeps_the_largest_logits(rng: np.random.Generator) -> None:
    """What is negated and searched for its smallest wants the same candidates as an argmax."""
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=16)
    fast = hire.transform(lambda w, x: jnp.argmin(0.5 - x @ w.T, axis=-1), hire.Config(rules=(rule,)))
    w, x = (jnp.asarray(numbers, jnp.float32) for numbers in (gaussian(rng), rng.normal(size=(16, D))))
    np.testing.assert_array_equal(fast(w, x), jnp.argmax(x @ w.T, axis=-1))
    assert len(fast.report().rewritten) == 1
