"""``Exact()``: only zeros are skipped; where too many neurons are active, the dense block runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.relu_blocks import BLOCKS, Block, D, Params, plain, scanned, weights, weights_of


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize(("bias", "fits"), [(-2.5, True), (0.0, False)], ids=["few active", "half active"])
def test_the_block_equals_dense(block: Block, dtype: str, group: int, bias: float, fits: bool) -> None:
    rng = np.random.default_rng(0)
    w = weights_of(block, rng, dtype, bias)
    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3, group=group)
    step, dense = hire.transform(jax.jit(block), hire.Config(rules=(rule,))), jax.jit(block)
    tolerance = 64 * float(jnp.finfo(dtype).eps)
    for batch in (1, 1, 2):
        x = drawn(rng.normal(size=(batch, D)), dtype)
        got, want = (np.asarray(f(w, x), np.float64) for f in (step, dense))
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 0.1))
    assert step.report().rewritten
    if block is not scanned:
        (certificate,) = step.report().certificates
        if group == 1:
            assert (certificate.proven == certificate.rows) == fits


def test_an_infinite_neuron_counts_as_active() -> None:
    rng = np.random.default_rng(1)
    w = weights(rng, bias=-2.5)
    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3, group=1)
    step = hire.transform(jax.jit(plain), hire.Config(rules=(rule,)))
    for bad in (np.nan, np.inf):
        x = drawn(rng.normal(size=(1, D)), jnp.float32).at[0, 0].set(bad)
        np.testing.assert_array_equal(np.isnan(step(w, x)), np.isnan(jax.jit(plain)(w, x)))


def test_activations_without_exact_zeros_are_refused() -> None:
    w = weights(np.random.default_rng(2))
    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3)
    step = hire.transform(lambda w, x: jax.nn.silu(x @ w["up"]) @ w["down"], hire.Config(rules=(rule,)))
    with pytest.raises(hire.ConfigError, match=r"Exact\(\) needs exact zeros, which silu does not give"):
        step(w, jnp.ones((1, D)))


def test_a_shifted_relu_has_exact_zeros_too() -> None:
    rng = np.random.default_rng(3)
    w, x = weights(rng), drawn(rng.normal(size=(1, D)), jnp.float32)

    def shifted(w: Params, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w["up"] - 1.5) @ w["down"]

    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3, group=1)
    step = hire.transform(shifted, hire.Config(rules=(rule,)))
    np.testing.assert_allclose(step(w, x), jax.jit(shifted)(w, x), rtol=0, atol=1e-5)
    (certificate,) = step.report().certificates
    assert certificate.proven == 1


def test_a_hard_swish_is_skipped_below_its_clip_where_a_rule_asks() -> None:
    rng = np.random.default_rng(4)
    w = weights(rng, bias=-5.0)
    x = drawn(rng.normal(size=(1, D)), jnp.float32)

    def hard(w: Params, x: jax.Array) -> jax.Array:
        return jax.nn.hard_swish(x @ w["up"] + w["bias"]) @ w["down"]

    (found,) = hire.transform(hard).report(w, x).decisions
    assert found.reason.startswith("hard_silu is exactly zero far below zero only")
    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.3, group=1)
    step = hire.transform(jax.jit(hard), hire.Config(rules=(rule,)))
    np.testing.assert_allclose(step(w, x), jax.jit(hard)(w, x), rtol=0, atol=1e-5)
    (certificate,) = step.report().certificates
    assert certificate.proven == 1


def test_a_head_is_not_for_exact() -> None:
    with pytest.raises(hire.ConfigError, match="certify"):
        hire.Rule(kind="head", predictor=hire.Exact(), candidates=8)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("choice", ["threshold", "top_k"])
def test_neurons_at_a_cut_are_those_of_the_author_s_own_product(choice: str) -> None:
    """Every gate lies between two bfloat16 numbers, at the cut: the order of its sum decides which one it becomes."""
    rng = np.random.default_rng(4)
    d, m = 64, 1024
    large, a = rng.normal(size=(31, m)) * 50, rng.normal(size=(4, 31))
    x = np.concatenate([a, -a, np.ones((4, 2))], axis=1)
    gate = np.concatenate([large, large, np.full((1, m), 1.5), np.full((1, m), -(2.0**-8))])
    w = {"gate": jnp.asarray(gate, jnp.bfloat16), "down": jnp.asarray(np.eye(d)[np.arange(m) % d], jnp.bfloat16)}

    def block(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        z = x @ w["gate"]
        cut = 1.5 if choice == "threshold" else jax.lax.top_k(z, 64)[0][..., -1:]
        return jnp.where(z >= cut, z, jnp.zeros_like(z)) @ w["down"]

    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.7, group=1)
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,)))
    x = jnp.asarray(x, jnp.bfloat16)
    got, want = (np.asarray(f(w, x), np.float32) for f in (step, jax.jit(block)))
    assert step.report().rewritten
    assert 0 < np.count_nonzero(np.asarray(x @ w["gate"], np.float32) >= 1.5) < 4 * m  # on both sides of the cut
    np.testing.assert_allclose(got, want, rtol=0, atol=0.2)  # one neuron more or less is 1.5
