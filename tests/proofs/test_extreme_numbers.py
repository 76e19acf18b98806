"""Numbers so large or small that a bound of them could go wrong: lengths, reciprocals, numbers that are cut off."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.proofs.interval import RULES, Enclosure, point
from hire_compiler.runtime.certify import _norm
from tests.support.drawn import drawn


@pytest.mark.diagonal
@pytest.mark.parametrize("exponent", [-125, -100, -81, -79, -63, -21, -19, 0, 39, 41, 59, 61, 63, 100])
@pytest.mark.parametrize("d", [3, 257, 4096])
def test_a_length_is_never_too_small(rng: np.random.Generator, exponent: int, d: int) -> None:
    x = np.asarray(rng.standard_normal((3, d)) * 2.0**exponent, np.float32)
    x[2] *= np.geomspace(1, 2.0**-30, d)  # most of it small beside its largest entry
    x = np.where(np.abs(x) < 2.0**-126, 0, x)
    length, true = np.asarray(jax.jit(lambda x: _norm(x, axis=1))(x)), np.linalg.norm(x.astype(np.float64), axis=1)
    assert (length >= true).all()
    assert (length <= true * (1 + 4e-3)).all()


@pytest.mark.parametrize("largest", [2.0**125, 2.0**126, 8.8e37, 2.0**127, 3e38, np.inf, np.nan])
def test_a_length_that_cannot_be_told_is_no_small_one(largest: float) -> None:
    x = jnp.asarray([[largest, 1.0, -2.0]], jnp.float32)
    length = jax.jit(lambda x: _norm(x, axis=1))(x)[0]
    assert not length < largest * 0.99


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("size", [1e37, 5e37, 8.8e37, 1.5e38, 3e38])
@pytest.mark.parametrize("certify", [True, "strict"])
def test_inputs_whose_reciprocal_is_flushed_are_not_proven(rng: np.random.Generator, size: float, certify: Any) -> None:
    """Their length came out as zero: XLA divided by multiplying with a reciprocal of zero."""
    w = drawn(rng.standard_normal((2048, 65)) * 1e-38, jnp.float32)
    bias = drawn(rng.standard_normal(2048), jnp.float32)
    head = jax.jit(lambda w, bias, x: jnp.argmax(x @ w.T + bias, -1))
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify=certify)
    step = hire.transform(head, hire.Config(rules=(rule,)))
    x = rng.standard_normal((4, 65))
    x = jnp.asarray(x / np.abs(x).max(axis=1, keepdims=True) * size, jnp.float32)
    np.testing.assert_array_equal(step(w, bias, x), head(w, bias, x))
    assert step.report().certificates[0].proven == 0


@pytest.mark.diagonal
@pytest.mark.parametrize("divisor", [2.0**126, 3e38, -1.2e38, 1e-39, -1e-40])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_quotient_is_in_doubt_where_a_reciprocal_is_flushed(divisor: float, is_known: bool) -> None:
    one = jnp.asarray(divisor, jnp.float32)
    b = point(one) if is_known else Enclosure(one, one * 1.0)
    made = jax.jit(lambda low, high: (lambda e: (e.low, e.high))(RULES["divide"](Enclosure(low, high), b)))
    assert np.isnan(made(jnp.float32(1.0), jnp.float32(2.0))).all()
    fine = RULES["divide"](Enclosure(jnp.float32(1.0), jnp.float32(2.0)), point(jnp.float32(0.5)))
    assert (float(fine.low), float(fine.high)) == (2.0, 4.0)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "scale"), [(1, 1.0), (4, 1.0), (4, -1.0)])
def test_top_k_of_bfloat16_is_that_of_dense_whether_it_rounds_or_cuts_off(
    rng: np.random.Generator, k: int, scale: float
) -> None:
    """Newer XLA packs a bfloat16 and its row into one integer, and drops the rounding in front of it."""
    w = drawn(rng.standard_normal((1024, 64)) / 8, jnp.bfloat16)
    head = jax.jit(lambda w, x: jax.lax.top_k((x @ w.T) * scale, k))
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=256, certify="strict")
    step = hire.transform(head, hire.Config(rules=(rule,)))
    for _ in range(24):
        x = drawn(rng.standard_normal((4, 64)), jnp.bfloat16)
        np.testing.assert_array_equal(step(w, x)[1], head(w, x)[1])


def test_the_slack_is_that_of_proven_rows(rng: np.random.Generator) -> None:
    """A row of NaN must not hide the slack of the others, in a loop neither."""
    w = drawn(rng.standard_normal((1024, 64)), jnp.float32)

    def head(w: Any, xs: Any) -> Any:
        return jax.lax.scan(lambda c, x: (c, jnp.argmax(x @ w.T, -1)), 0, xs)[1]

    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify=True)
    step = hire.transform(head, hire.Config(rules=(rule,)))
    x = rng.standard_normal((3, 2, 64)).astype(np.float32)
    x[1, 0, 3] = np.nan
    step(w, jnp.asarray(x))
    (proof,) = step.report().certificates
    assert (proof.rows, proof.proven) == (6, 5)
    assert 0 < proof.slack < 1
