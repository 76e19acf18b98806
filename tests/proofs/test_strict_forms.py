"""Strict heads, the product written in every way: the tokens are those of dense, near ties and failed proofs too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from tests.support.drawn import drawn

D, V = 65, 2049  # no multiples of anything

PRODUCTS: dict[str, tuple[bool, Callable[[jax.Array, jax.Array], jax.Array]]] = {
    "x @ w.T": (True, lambda w, x: x @ w.T),
    "einsum bd,vd": (True, lambda w, x: jnp.einsum("bd,vd->bv", x, w)),
    "einsum vd,bd, turned": (True, lambda w, x: jnp.einsum("vd,bd->vb", w, x).T),
    "x @ w": (False, lambda w, x: x @ w),
    "einsum dv,bd, turned": (False, lambda w, x: jnp.einsum("dv,bd->vb", w, x).T),
    "[b, 1, d] @ w": (False, lambda w, x: (x[:, None] @ w)[:, 0]),
    "summed in float32": (False, lambda w, x: lax.dot(x, w, preferred_element_type=jnp.float32)),
    "a scaled weight": (True, lambda w, x: x @ (w * 0.5).T),
}
RULE = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify="strict")


def near_ties(rng: np.random.Generator, dtype: str) -> jax.Array:
    """Every row stands eight times among the others, up to a unit in the last place: only dense's own sums decide."""
    rows = drawn(rng.normal(size=(-(-V // 8), D)), dtype)
    rows = np.asarray(rows.astype(jnp.float32))[rng.integers(0, len(rows), V)]
    close = np.nextafter(rows, np.float32(np.inf)) if dtype == "float32" else rows
    return jnp.asarray(np.where(rng.random(rows.shape) < 0.3, close, rows), dtype)


def gaussian(rng: np.random.Generator, dtype: str) -> jax.Array:
    return drawn(rng.normal(size=(V, D)), dtype)


@pytest.mark.diagonal(keep=2)
@pytest.mark.parametrize("batch", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [near_ties, gaussian], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", PRODUCTS)
def test_tokens_are_those_of_dense(
    name: str, make: Callable[..., jax.Array], dtype: str, batch: int, rng: np.random.Generator
) -> None:
    by_rows, product = PRODUCTS[name]

    def head(w: jax.Array, x: jax.Array) -> Any:
        z = product(w, x)
        return jnp.argmax(z, axis=-1), jnp.max(z, axis=-1)

    step, dense = hire.transform(jax.jit(head), hire.Config(rules=(RULE,))), jax.jit(head)
    w = make(rng, dtype)
    w = w if by_rows else w.T.copy()
    for _ in range(20):
        x = drawn(rng.normal(size=(batch, D)), dtype)
        (ids, largest), (wanted, most) = step(w, x), dense(w, x)
        np.testing.assert_array_equal(ids, wanted)
        np.testing.assert_allclose(np.asarray(largest, np.float64), np.asarray(most, np.float64), rtol=1e-2)
    (certificate,) = step.report().certificates
    if make is near_ties and dtype == "float32":
        assert certificate.proven < certificate.rows / 2  # so the author's own code did run
    if make is gaussian and dtype == "float32":
        assert certificate.proven > certificate.rows / 2


@pytest.mark.slow
def test_a_matrix_by_columns_is_read_where_it_lies(rng: np.random.Generator) -> None:
    w = gaussian(rng, "bfloat16").T.copy()
    step = hire.transform(jax.jit(lambda w, x: jnp.argmax(x @ w, axis=-1)), hire.Config(rules=(RULE,)))
    step(w, jnp.ones((1, D), jnp.bfloat16))
    (decision,) = step.report().decisions
    assert decision.added_bytes < w.nbytes  # the int8 copy and its bounds, no second matrix


HUGE = [1e37, 5e36, 1e30, 1e19, 1e-19, 1e-30, 1e-37, 1e-42]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("certify", [True, "strict"])
@pytest.mark.parametrize("size", HUGE)
def test_no_proof_is_believed_where_numbers_overflow_or_vanish(
    size: float, certify: Any, rng: np.random.Generator
) -> None:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify=certify)
    head = jax.jit(lambda w, x: jnp.argmax(x @ w.T, axis=-1))
    step = hire.transform(head, hire.Config(rules=(rule,)))
    w = gaussian(rng, "float32")
    for scale in (1e-3, 1.0, 1e3):
        for _ in range(6):
            x = drawn(rng.normal(size=(2, D)) * size, jnp.float32)
            got, wanted = step(w * scale, x), head(w * scale, x)
            if certify == "strict":
                np.testing.assert_array_equal(got, wanted)
            exact = np.asarray(x, np.float64) @ np.asarray(w * np.float32(scale), np.float64).T
            best, most = np.take_along_axis(exact, np.asarray(got)[:, None], 1)[:, 0], exact.max(axis=1)
            overflows = np.abs(exact).max(axis=1) > 1e37  # in dense too, or a sum on the way does
            assert (overflows | (best >= most - 1e-5 * np.abs(most) - 1e-37)).all()


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_what_is_no_number_comes_out_as_dense_has_it(where: str, value: float, rng: np.random.Generator) -> None:
    head = jax.jit(lambda w, x: (jnp.argmax(x @ w.T, axis=-1), *lax.top_k(x @ w.T, 4)))
    step = hire.transform(head, hire.Config(rules=(RULE,)))
    w, x = gaussian(rng, "float32"), drawn(rng.normal(size=(2, D)), jnp.float32)
    w, x = (w.at[1500, 3].set(value), x) if where == "weight" else (w, x.at[1, 3].set(value))
    for got, wanted in zip(step(w, x), head(w, x), strict=True):
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(wanted))
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
