"""Blocks whose other product makes zeros too: nothing is skipped that is not zero; every branch is made to run."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.relu_blocks import WIDTH, D, Params, gated, plain, scanned, weights, weights_of

OTHERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu(u - 1.5)": lambda u: jax.nn.relu(u - jnp.asarray(1.5, u.dtype)),
    "relu(u + b), b = -1.2": lambda u: jax.nn.relu(u + jnp.full(u.shape[-1], -1.2, u.dtype)),
    "u > 2": lambda u: (u > 2).astype(u.dtype),
    "where(|u| > 1.2, u, 0)": lambda u: jnp.where(jnp.abs(u) > 1.2, u, jnp.zeros_like(u)),
}


def doubly(name: str) -> Callable[..., jax.Array]:
    return lambda w, x: (jax.nn.relu(x @ w["gate"]) * OTHERS[name](2 * (x @ w["up"]))) @ w["down"]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("density", [0.25, 0.9], ids=["dense runs", "it fits"])
def test_what_either_product_zeroes_is_skipped_and_nothing_else(name: str, dtype: str, density: float) -> None:
    rng = np.random.default_rng(0)
    w, block = weights(rng, dtype), doubly(name)
    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=density, group=1)
    step, dense = hire.transform(jax.jit(block), hire.Config(rules=(rule,))), jax.jit(block)
    for _ in range(3):
        x = drawn(rng.normal(size=(1, D)), dtype)
        got, want = (np.asarray(f(w, x), np.float64) for f in (step, dense))
        tolerance = 64 * float(jnp.finfo(dtype).eps) * max(np.abs(want).max(), 0.1)
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    (certificate,) = step.report().certificates
    if density == 0.9:
        assert certificate.proven == 3


def test_zeros_that_need_both_products_are_refused_with_the_reason() -> None:
    def block(w: Params, x: jax.Array) -> jax.Array:
        return jax.nn.relu((x @ w["gate"]) * (x @ w["up"]) - 1.0) @ w["down"]

    w, x = weights(np.random.default_rng(1)), jnp.ones((1, D))
    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3)
    with pytest.raises(hire.ConfigError, match="do not follow from one product alone"):
        hire.transform(block, hire.Config(rules=(rule,)))(w, x)


# --------------------------------------------------------------------------- every branch, by form, type and batch

EXACT = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.1, group=1)
CERTIFIED = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify=True, density=0.3, group=1)


@pytest.mark.slow
@pytest.mark.parametrize("block", [plain, gated, scanned], ids=lambda block: block.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("rule", [EXACT, CERTIFIED], ids=["exact", "certified"])
@pytest.mark.parametrize("fits", [True, False], ids=["skips", "dense branch"])
def test_both_branches_equal_dense(
    block: Callable[..., jax.Array], dtype: str, batch: int, rule: hire.Rule, fits: bool
) -> None:
    rng = np.random.default_rng(2)
    w = weights_of(block, rng, dtype, -8.0 if fits else 0.5)
    # A few neurons that are always active, so that a skip has something to compute.
    w["bias"] = w["bias"].at[..., : WIDTH // 16].set(1.0)
    step, dense = hire.transform(jax.jit(block), hire.Config(rules=(rule,))), jax.jit(block)
    x = drawn(rng.normal(size=(batch, D)), dtype)
    got, want = (np.asarray(f(w, x), np.float64) for f in (step, dense))
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=64 * float(jnp.finfo(dtype).eps) * np.abs(want).max())
    if block is not scanned:
        (certificate,) = step.report().certificates
        assert certificate.proven == (batch if fits else 0)
