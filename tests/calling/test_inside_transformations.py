"""A transformed function inside ``jit``, ``vmap`` and derivatives."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.entry import smooth
from tests.support.models import (
    CONFIG,
    FFN,
    HEAD,
    VOCABULARY,
    WIDTH,
    D,
    array,
    decode,
    head,
    logits,
    rewritten,
    tokens,
)


def test_inside_an_outer_jit_prepared_weights_are_handed_in(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    prepared = step.prepare(params, tokens(rng))

    @jax.jit
    def generate(params: dict[str, Any], prepared: Any, t: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda t, _: (step(params, t, prepared=prepared),) * 2, t, length=3)[1]

    t = tokens(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = generate(params, prepared, t)
    for row in got:
        t = np.argmax(logits(params, t), axis=-1)
        np.testing.assert_array_equal(row, t)
    compilations.clear()
    generate(params, prepared, tokens(rng))
    assert not compilations


def test_inside_an_outer_jit_without_them_it_warns_and_is_right(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    with pytest.warns(hire.HireWarning, match=r"step\.prepare.*prepared="):
        got = jax.jit(lambda params, t: step(params, t))(params, t)
    np.testing.assert_array_equal(got, np.argmax(logits(params, t), axis=-1))


def test_tracers_are_not_remembered_after_an_outer_jit(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    with pytest.warns(hire.HireWarning):
        jax.jit(lambda params, t: step(params, t))(params, t)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))


def test_an_outer_jit_over_closed_weights_does_not_prepare_again(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = jax.jit(lambda t: step(params, t))(t)
    np.testing.assert_array_equal(got, np.argmax(logits(params, t), axis=-1))
    np.testing.assert_array_equal(step(params, t), got)


@pytest.mark.filterwarnings("ignore::hire_compiler.HireWarning")
def test_prepared_weights_may_come_from_abstract_evaluation(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    assert jax.eval_shape(step, params, t).shape == t.shape


@pytest.mark.parametrize("transformation", [jax.grad, jax.value_and_grad, jax.jacfwd, jax.jacrev])
def test_a_derivative_is_refused_with_a_sentence(transformation: Any, rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(smooth), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, WIDTH, D)
    step(x, up, down)
    with pytest.raises(hire.HireError, match=r"derivative.*differentiate the original"):
        transformation(lambda x: step(x, up, down))(x)


@pytest.mark.filterwarnings("ignore::hire_compiler.HireWarning")
def test_a_derivative_by_the_weights_is_refused_too(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(smooth), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, WIDTH, D)
    with pytest.raises(hire.HireError, match="derivative"):
        jax.grad(lambda up: step(x, up, down))(up)


def test_vmap_is_refused_with_a_sentence(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head), hire.Config(rules=(HEAD,)))
    x, w = array(rng, 3, 2, D), array(rng, VOCABULARY, D)
    with pytest.raises(hire.HireError, match="batch inside the function"):
        jax.vmap(lambda x: step(x, w))(x)


def test_vmap_first_and_transform_last_is_the_way_out(rng: np.random.Generator) -> None:
    inside = jax.vmap(lambda x, w: jnp.argmax(w @ x), in_axes=(0, None))
    step = hire.transform(jax.jit(inside), hire.Config(rules=(HEAD,)))
    x, w = array(rng, 3, D), array(rng, VOCABULARY, D)
    np.testing.assert_array_equal(step(x, w), inside(x, w))
    assert rewritten(step) == ["head/0"]
