"""Numbers of batch rows between the products of a block: padding that is masked out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.models import WIDTH, D, array


@pytest.mark.parametrize(
    "rule",
    [
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0),
        hire.Rule(kind="ffn", predictor=hire.Exact(), candidates=WIDTH // 2, group=1),
    ],
)
def test_a_padding_mask_is_repeated_as_it_stands(rng: np.random.Generator, rule: hire.Rule) -> None:
    up, down = array(rng, D, WIDTH), array(rng, WIDTH, D)

    @jax.jit
    def program(x: jax.Array, padding: jax.Array) -> jax.Array:
        return jnp.where(padding[..., None], 0, jax.nn.relu(x @ up - 2)) @ down

    step = hire.transform(program, hire.Config(rules=(rule,)))
    x = array(rng, 1, 3, D)
    for padding in ([False, False, False], [False, True, True], [True, True, True]):
        mask = jnp.asarray([padding])
        np.testing.assert_allclose(step(x, mask), program(x, mask), rtol=1e-5, atol=1e-5)
        assert not np.asarray(step(x, mask))[mask].any()
    assert step.report().rewritten


@pytest.mark.parametrize("batch", [pytest.param(1), pytest.param(3, marks=pytest.mark.slow)])
def test_a_norm_of_the_input_may_stand_behind_the_product(rng: np.random.Generator, batch: int) -> None:
    table, up, down = array(rng, 5, D), array(rng, D, WIDTH), array(rng, WIDTH, D)

    @jax.jit
    def program(tokens: jax.Array) -> jax.Array:
        h = jnp.asarray(table)[tokens]
        norm = jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True))
        return jax.nn.relu((h @ up) * norm - 2) @ down

    rule = hire.Rule(kind="ffn", predictor=hire.Exact(), candidates=WIDTH // 2, group=1)
    step = hire.transform(program, hire.Config(rules=(rule,)))
    tokens = jnp.arange(batch)
    np.testing.assert_allclose(step(tokens), program(tokens), rtol=1e-5, atol=1e-5)
    assert step.report().rewritten
