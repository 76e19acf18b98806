"""NaN and Inf of the dense block come out of a skipping one: dense multiplies the zeros, too."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.relu_blocks import WIDTH, D, Params, gated, plain, scanned, weights, weights_of


def thresholded(w: Params, x: jax.Array) -> jax.Array:
    """Its gate is zero for NaN."""
    z = x @ w["gate"]
    return (jnp.where(z > 2.5, z, jnp.zeros_like(z)) * (x @ w["up"])) @ w["down"]


def chosen(w: Params, x: jax.Array) -> jax.Array:
    return (hire.group_topk(jax.nn.relu(x @ w["gate"]), 16, 8) * (x @ w["up"])) @ w["down"]


EXACT = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3, group=1)
CERTIFIED = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify=True, density=0.6, group=1)
FORMS = {
    "plain": (plain, EXACT),
    "gated": (gated, EXACT),
    "stacked": (scanned, EXACT),
    "threshold": (thresholded, EXACT),
    "group_topk": (chosen, hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3, group=8)),
    "plain, certified": (plain, CERTIFIED),
    "gated, certified": (gated, CERTIFIED),
    "stacked, certified": (scanned, CERTIFIED),
}

Spoil = Callable[[Params, jax.Array], tuple[Params, jax.Array]]


def entry(name: str, value: float) -> Spoil:
    """One entry of a weight: of a neuron that is zero nearly always."""

    def spoil(w: Params, x: jax.Array) -> tuple[Params, jax.Array]:
        if name not in w:
            return w, x
        place = (..., 7, 3) if name == "down" else (..., 3, 7)
        return w | {name: w[name].at[place].set(value)}, x

    return spoil


def overflowing(name: str, share: float) -> Spoil:
    """Products so large that sums overflow on the way: their order decides between Inf, NaN and a number.

    Args:
      share: of the largest number of the type, how large one product is.
    """

    def spoil(w: Params, x: jax.Array) -> tuple[Params, jax.Array]:
        if name not in w:
            return w, x
        factors = {name: share * float(jnp.finfo(w[name].dtype).max), "down": 16.0}
        return w | {n: (w[n].astype(jnp.float32) * f).astype(w[n].dtype) for n, f in factors.items()}, x

    return spoil


SPOILS: dict[str, Spoil] = {
    "nothing": lambda w, x: (w, x),
    "NaN in x": lambda w, x: (w, x.at[0, 3].set(jnp.nan)),
    "Inf in x": lambda w, x: (w, x.at[0, 3].set(-jnp.inf)),
    "NaN in up": entry("up", jnp.nan),
    "Inf in up": entry("up", jnp.inf),
    "huge in up": entry("up", 6e4),  # overflows in float16 alone
    "NaN in down": entry("down", jnp.nan),
    "Inf in down": entry("down", -jnp.inf),
    "NaN in gate": entry("gate", jnp.nan),
    "a gate that overflows": overflowing("gate", 0.3),
    "products that overflow": overflowing("up", 0.3),
    "sums that overflow": overflowing("up", 0.05),
    "NaN in bias": lambda w, x: (w | {"bias": w["bias"].at[..., 7].set(jnp.nan)}, x),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.filterwarnings("ignore:.*were different arrays")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("batch", [1, 4])
def test_what_is_not_finite_comes_out_as_dense_gives_it(form: str, dtype: str, batch: int) -> None:
    block, rule = FORMS[form]
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,), check_weights=False))
    dense, seen = jax.jit(block), []
    for spoiled, spoil in SPOILS.items():
        rng = np.random.default_rng(3)
        w, x = spoil(weights_of(block, rng, dtype, -2.5), drawn(rng.normal(size=(batch, D)), dtype))
        got, want = (np.asarray(f(w, x), np.float64) for f in (step, dense))
        for kind in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(kind(got), kind(want), err_msg=spoiled)
        finite = np.isfinite(want)
        tolerance = 64 * float(jnp.finfo(dtype).eps) * max(np.abs(want[finite]).max(initial=0), 0.1)
        np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=tolerance, err_msg=spoiled)
        if block is not scanned and spoiled in ("nothing", "NaN in x"):
            seen.append(step.report().certificates[0].proven)
    # What is skipped is skipped, and nothing of what may not be.
    assert seen in ([], [batch, batch])


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_product_that_overflows_at_a_zero_of_the_gate_is_computed(dtype: str) -> None:
    rng = np.random.default_rng(5)
    w = weights(rng, dtype)
    w["up"] = w["up"].at[:, 5].set(float(jnp.finfo(dtype).max) / 4)
    w["gate"] = w["gate"].at[:, 5].set(-1.0)  # zero, wherever x is positive
    x = jnp.abs(drawn(rng.normal(size=(1, D)), dtype)) + 1
    step = hire.transform(jax.jit(gated), hire.Config(rules=(EXACT,)))
    assert np.isnan(np.asarray(jax.jit(gated)(w, x), np.float32)).all()
    assert np.isnan(np.asarray(step(w, x), np.float32)).all()


def test_sums_that_overflow_come_out_as_the_author_s_own() -> None:
    """In another order some are Inf where dense gives NaN."""
    rng = np.random.default_rng(0)
    shapes = {"gate": (256, 2048), "up": (256, 2048), "down": (2048, 256)}
    w = {name: drawn(rng.normal(size=s) * s[0] ** -0.5, jnp.float32) for name, s in shapes.items()}
    dense = jax.jit(lambda w, x: (jax.nn.relu(x @ w["gate"] - 1.0) * (x @ w["up"])) @ w["down"])
    step = hire.transform(dense, hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3),)))
    for large in ("up", "down"):
        spoiled = w | {large: w[large] * np.float32(1e38)}
        for _ in range(4):
            x = drawn(rng.normal(size=(1, 256)), jnp.float32)
            np.testing.assert_array_equal(step(spoiled, x), dense(spoiled, x))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("added", ["a bias", "the residual"])
def test_sums_that_overflow_are_the_author_s_own_with_what_is_added_to_them(added: str) -> None:
    """XLA:CPU sums the last product in another order where it fuses an addition with it."""
    rng = np.random.default_rng(0)

    @jax.jit
    def dense(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = (jax.nn.relu(x @ w["gate"].T) * (x @ w["up"].T)) @ w["down"].T
        return y + (w["bias"] if added == "a bias" else x)

    shapes = {"gate": (2048, 256), "up": (2048, 256), "down": (256, 2048), "bias": (256,)}
    sparse = {name: rng.normal(size=s) * (rng.random(s) < 0.3) for name, s in shapes.items()}
    w = {name: jnp.asarray(a, jnp.float32) for name, a in sparse.items()}
    step = hire.transform(dense, hire.Config(adapt=False))
    infinite = 0
    for _ in range(24):
        x = drawn(rng.normal(size=(1, 256)) * 6e17 * 2.0 ** rng.uniform(-2, 0.5), jnp.float32)
        wanted = np.asarray(dense(w, x))
        infinite += int(np.isinf(wanted).any())
        np.testing.assert_array_equal(np.isfinite(step(w, x)), np.isfinite(wanted))
        np.testing.assert_array_equal(np.isnan(step(w, x)), np.isnan(wanted))
    assert infinite > 3
    assert step.report().rewritten


def test_the_default_keeps_nan_too() -> None:
    """Large enough that no rule is needed."""
    rng = np.random.default_rng(6)
    d, m = 256, 2048
    w = {name: drawn(rng.normal(size=s) / 16, jnp.float32) for name, s in
         {"gate": (d, m), "up": (d, m), "down": (m, d)}.items()}  # fmt: skip
    step = hire.transform(jax.jit(thresholded))
    x = drawn(rng.normal(size=(1, d)), jnp.float32)
    np.testing.assert_allclose(step(w, x), thresholded(w, x), atol=1e-4)
    assert step.report().rewritten
    assert np.isnan(step(w, x.at[0, 3].set(jnp.nan))).all()


def test_the_rows_of_a_layer_spoil_no_other_layer() -> None:
    rng = np.random.default_rng(7)
    w = weights_of(scanned, rng, "float32", -2.5)
    w["down"] = w["down"].at[0, 7, 3].set(jnp.nan)
    step = hire.transform(jax.jit(scanned), hire.Config(rules=(EXACT,), check_weights=False))
    x = drawn(rng.normal(size=(1, D)), jnp.float32)
    prepared = step.prepare(w, x)
    for limits in [a for name, a in _named(prepared) if "limit" in name]:
        assert limits.shape == (3, WIDTH)
        assert np.isinf(limits[0]).all()
        assert np.isfinite(limits[1:]).all()


def _named(tree: object) -> list[tuple[str, jax.Array]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
