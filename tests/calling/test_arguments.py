"""A transformed function takes its arguments, and gives its results, as the jitted function does."""

from __future__ import annotations

import inspect as python_inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
    logits,
    rewritten,
    tokens,
)


def test_the_counter_of_compilations_counts(compilations: list[str], rng: np.random.Generator) -> None:
    x = np.ones(3, np.float32)
    jax.jit(lambda x: x * 3)(x)
    assert len(compilations) >= 1


def test_the_answer_is_the_dense_one(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))
    assert rewritten(step) == ["ffn/0", "head/0"]


def test_a_plain_function_is_taken_too(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(decode, CONFIG), tokens(rng)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))
    assert rewritten(step) == ["ffn/0", "head/0"]


class Cache(NamedTuple):
    keys: jax.Array
    length: jax.Array


@jax.tree_util.register_dataclass
@dataclass
class State:
    cache: Cache
    tokens: tuple[jax.Array, ...]


def with_state(params: dict[str, Any], state: State, scale: float = 1.0) -> tuple[dict[str, Any], State]:
    next_token = decode(params, state.tokens[-1])
    cache = Cache(state.cache.keys * scale, state.cache.length + 1)
    return {"next": next_token, "none": None, "list": [cache.length]}, State(cache, (*state.tokens[1:], next_token))


def a_state(rng: np.random.Generator) -> State:
    return State(Cache(array(rng, 4, 3), jnp.int32(7)), (tokens(rng), tokens(rng)))


def assert_equal_trees(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_trees_of_arguments_and_results_keep_their_structure(params: dict[str, Any], rng: np.random.Generator) -> None:
    dense, state = jax.jit(with_state), a_state(rng)
    step = hire.transform(dense, CONFIG)
    assert_equal_trees(step(params, state), dense(params, state))
    assert rewritten(step)
    assert isinstance(step(params, state)[1], State)


def test_arguments_may_be_given_by_name_and_in_any_order(params: dict[str, Any], rng: np.random.Generator) -> None:
    dense, state = jax.jit(with_state), a_state(rng)
    step = hire.transform(dense, CONFIG)
    assert_equal_trees(step(state=state, params=params), dense(params, state))
    assert rewritten(step) == ["ffn/0", "head/0"]
    assert_equal_trees(step(params, scale=2.0, state=state), dense(params, state, 2.0))
    assert step.report().sites[1].weights == ("params['embed']",)


def test_a_python_number_is_traced_as_jit_would(params: dict[str, Any], rng: np.random.Generator) -> None:
    dense, state = jax.jit(with_state), a_state(rng)
    step = hire.transform(dense, CONFIG)
    for scale in (0.5, 3, np.float32(2)):
        assert_equal_trees(step(params, state, scale), dense(params, state, scale))


def test_wrong_arguments_raise_what_the_function_would_raise(params: dict[str, Any], rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'tokens'"):
        step(params)
    with pytest.raises(TypeError, match="unexpected keyword argument 'token'"):
        step(params, token=tokens(rng))


def best(x: jax.Array, w: jax.Array, k: int = 3, *, largest: bool = True) -> list[jax.Array]:
    assert isinstance(k, int)
    return jax.lax.top_k(x @ w.T if largest else jnp.sin(x) @ w.T, k)


@pytest.mark.parametrize(
    "options",
    [
        {"static_argnames": ("k", "largest")},
        {"static_argnums": (2,), "static_argnames": ("largest",)},
        {"static_argnums": 2, "static_argnames": "largest"},
        {"static_argnums": -1, "static_argnames": ("largest",)},
    ],
    ids=["names", "number and name", "bare", "negative number"],
)
def test_static_arguments_stay_static(options: dict[str, Any], rng: np.random.Generator) -> None:
    dense = jax.jit(best, **options)
    step = hire.transform(dense, hire.Config(rules=(HEAD,)))
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    for args, kwargs in [((x, w, 4), {}), ((x, w, 4), {"largest": False}), ((x, w, 7), {})]:
        assert_equal_trees(step(*args, **kwargs), dense(*args, **kwargs))
        assert rewritten(step) == ["head/0"]


def test_static_arguments_by_number_may_be_given_by_name_and_the_other_way_round(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    numbered = hire.transform(jax.jit(best, static_argnums=2), hire.Config(rules=(HEAD,)))
    named = hire.transform(jax.jit(best, static_argnames="k"), hire.Config(rules=(HEAD,)))
    wanted = best(x, w, 5)
    assert_equal_trees(numbered(x, w, k=5), wanted)
    assert_equal_trees(named(x, w, 5), wanted)
    assert rewritten(numbered) == rewritten(named) == ["head/0"]


def test_another_static_value_is_another_program(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(best, static_argnames=("k", "largest")), hire.Config(rules=(HEAD,)))
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    assert step(x, w, k=2)[0].shape == (2, 2)
    assert step(x, w, k=6)[0].shape == (2, 6)
    assert step(x, w, k=2)[0].shape == (2, 2)


def test_an_unhashable_static_value_is_an_error_as_in_jit(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(best, static_argnames="k"), hire.Config(rules=(HEAD,)))
    with pytest.raises((ValueError, TypeError), match="hash"):
        step(array(rng, 2, D), array(rng, VOCABULARY, D), k=[3])


def test_name_and_documentation_are_the_functions_own() -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    assert (step.__name__, step.__doc__) == (decode.__name__, decode.__doc__)
    assert python_inspect.signature(step) == python_inspect.signature(decode)
    assert "decode" in repr(step)


def test_a_dictionary_changed_inside_stays_the_callers_own_as_in_jit(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    def careless(params: dict[str, Any], t: jax.Array) -> jax.Array:
        scale = params.pop("scale")
        params["embed"] = params["embed"] * 1.0
        return decode(params, t) * scale

    given, t = {**params, "scale": jnp.int32(3)}, tokens(rng)
    step = hire.transform(jax.jit(careless), CONFIG)
    np.testing.assert_array_equal(step(given, t), np.argmax(logits(params, t), axis=-1) * 3)
    assert given.keys() == {*params, "scale"}


@pytest.mark.parametrize("form", [float, lambda value: np.full(2048, value)], ids=["python number", "float64"])
def test_a_bias_that_is_no_jax_array_has_the_type_that_jax_gives_it(rng: np.random.Generator, form: Any) -> None:
    def block(up: jax.Array, down: jax.Array, bias: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ up + bias) @ down

    step = hire.transform(block)
    up, down, x = array(rng, 256, 2048), array(rng, 2048, 256), array(rng, 1, 256)
    for value in (-20.0, 0.5):
        got, want = step(up, down, form(value), x), jax.jit(block)(up, down, form(value), x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))
    assert rewritten(step) == ["ffn/0"]
