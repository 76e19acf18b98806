"""Functions of Flax and Equinox, partials and closures are taken like any other."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hire_compiler as hire
from hire_compiler.capture.hoist import hoist_constants
from tests.support.models import (
    CONFIG,
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
    weights,
)


class NnxDecoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.up, self.down = nnx.Linear(D, WIDTH, rngs=rngs), nnx.Linear(WIDTH, D, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(D, VOCABULARY, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.argmax(self.head(x + self.down(jax.nn.relu(self.up(x)))), axis=-1)


@pytest.mark.slow
def test_an_nnx_function_is_taken(rng: np.random.Generator) -> None:
    model, x = NnxDecoder(nnx.Rngs(0)), array(rng, 2, D)
    dense = nnx.jit(lambda model, x: model(x))
    step = hire.transform(dense, CONFIG)
    np.testing.assert_array_equal(step(model, x), dense(model, x))
    assert rewritten(step) == ["ffn/0", "head/0"]
    assert any("head" in name for name in step.report().sites[1].weights)


def test_an_nnx_model_in_a_closure_is_taken(rng: np.random.Generator) -> None:
    model, x = NnxDecoder(nnx.Rngs(1)), array(rng, 2, D)
    step = hire.transform(nnx.jit(lambda x: model(x)), CONFIG)
    np.testing.assert_array_equal(step(x), model(x))


class NnxCounter(NnxDecoder):
    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.steps = nnx.Variable(jnp.int32(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.steps[...] += 1
        return super().__call__(x)


def test_an_nnx_module_that_changes_itself_is_refused(rng: np.random.Generator) -> None:
    model, x = NnxCounter(nnx.Rngs(0)), array(rng, 2, D)
    step = hire.transform(nnx.jit(lambda model, x: model(x)), CONFIG)
    with pytest.raises(hire.CaptureError, match=r"steps.*in place.*nnx\.split"):
        step(model, x)
    assert model.steps[...] == 0


def test_split_nnx_state_is_the_way_out(rng: np.random.Generator) -> None:
    model, x = NnxCounter(nnx.Rngs(0)), array(rng, 2, D)
    definition, state = nnx.split(model)

    def pure(state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        merged = nnx.merge(definition, state)
        y = merged(x)
        return y, nnx.state(merged)

    step = hire.transform(jax.jit(pure), CONFIG)
    for count in (1, 2):
        y, state = step(state, x)
        assert nnx.merge(definition, state).steps[...] == count
    np.testing.assert_array_equal(y, NnxDecoder.__call__(model, x))
    assert rewritten(step) == ["ffn/0", "head/0"]


class EqxDecoder(eqx.Module):
    embed: jax.Array
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    name: str
    activation: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x + jax.vmap(self.down)(self.activation(jax.vmap(self.up)(x)))
        return jnp.argmax(h @ self.embed.T, axis=-1)


def test_an_equinox_function_is_taken(rng: np.random.Generator) -> None:
    first, second = jax.random.split(jax.random.key(0))
    up, down = eqx.nn.Linear(D, WIDTH, key=first), eqx.nn.Linear(WIDTH, D, use_bias=False, key=second)
    model = EqxDecoder(array(rng, VOCABULARY, D), up, down, "decoder", jax.nn.relu)
    dense, x = eqx.filter_jit(lambda model, x: model(x)), array(rng, 2, D)
    step = hire.transform(dense, CONFIG)
    np.testing.assert_array_equal(step(model, x), dense(model, x))
    assert rewritten(step) == ["ffn/0", "head/0"]


@pytest.mark.parametrize("jit_first", [True, False])
def test_a_partial_over_weights_is_taken(jit_first: bool, rng: np.random.Generator) -> None:
    big = weights(rng, 4096)
    partial = functools.partial(decode, big)
    step, t = hire.transform(jax.jit(partial) if jit_first else partial, CONFIG), tokens(rng)
    np.testing.assert_array_equal(step(t), np.argmax(logits(big, t), axis=-1))
    assert rewritten(step) == ["ffn/0", "head/0"]
    assert step.report().sites[1].weights == ("closure[0]",)


def test_biases_and_masks_of_a_closure_go_with_its_weights(rng: np.random.Generator) -> None:
    w, bias, down = array(rng, D, WIDTH), array(rng, WIDTH), array(rng, WIDTH, D)
    table, allowed = array(rng, VOCABULARY, D), np.arange(VOCABULARY) % 3 != 0

    @jax.jit
    def dense(x: jax.Array) -> jax.Array:
        h = x + jax.nn.relu(x @ w + bias) @ down
        return jnp.argmax(jnp.where(allowed, h @ table.T, -jnp.inf), axis=-1)

    step, x = hire.transform(dense, CONFIG), array(rng, 2, D)
    np.testing.assert_array_equal(step(x), dense(x))
    assert rewritten(step) == ["ffn/0", "head/0"]


def closed_over(w: jax.Array) -> Iterator[tuple[str, Any]]:
    """Functions that hide a weight in different places."""

    @jax.jit
    def product(x: jax.Array) -> jax.Array:
        return x @ w.T

    def loop(x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return jnp.tanh(carry), jnp.argmax(product(carry), axis=-1)

        return jax.lax.scan(body, x, length=3)[1]

    def until(x: jax.Array) -> jax.Array:
        def body(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return state[0] + 1, jnp.argmax(product(x * (state[0] + 1)), axis=-1)

        return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, jnp.zeros(x.shape[0], jnp.int32)))[1]

    def branch(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda x: head(x, w), lambda x: head(-x, w), x)

    yield "closure", lambda x: head(x, w)
    yield "nested jit", lambda x: jnp.argmax(product(x), axis=-1)
    yield "jit in a scan", loop
    yield "jit in a while", until
    yield "cond", branch
    yield "remat", jax.checkpoint(lambda x: head(x, w))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("place", [name for name, _ in closed_over(jnp.zeros((1, 1)))])
def test_a_big_closed_over_weight_never_becomes_text(place: str, rng: np.random.Generator) -> None:
    w, x = array(rng, 8192, D), array(rng, 2, D)  # 512 KiB; as text more than a megabyte
    function = dict(closed_over(w))[place]
    step = hire.transform(jax.jit(function), hire.Config(rules=(HEAD,)))
    np.testing.assert_array_equal(step(x), function(x))
    assert rewritten(step)
    assert all(site.weights == ("closure[0]",) for site in step.report().sites)
    assert len(step.lower(x).as_text()) < 100_000


def test_a_closed_over_weight_is_hoisted_once_however_often_it_is_read(rng: np.random.Generator) -> None:
    w, x = array(rng, 4096, D), array(rng, 2, D)
    inner = jax.jit(lambda x: x @ w.T)
    step = hire.transform(jax.jit(lambda x: (head(x, w), jnp.argmax(inner(-x), axis=-1))), hire.Config(rules=(HEAD,)))
    for got, wanted in zip(step(x), (head(x, w), head(-x, w)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [site.weights for site in step.report().sites] == [("closure[0]",)] * 2


def test_equal_lists_are_hoisted_once_and_masks_of_one_truth_value_not_at_all(rng: np.random.Generator) -> None:
    ids, x = rng.integers(0, 4096, 20_000), array(rng, 4096)
    dense = jax.jit(lambda x: x[ids] - x[ids.copy()] + jnp.where(np.zeros(20_000, bool), x[ids + 1 - 1], 1))
    replay, constants = hoist_constants(dense.trace(x).jaxpr)
    assert [(c.shape, str(c.dtype)) for c in constants] == [((20_000,), "int32")]
    np.testing.assert_array_equal(replay(*constants, x)[0], np.ones(20_000))


def test_a_small_constant_stays_in_the_program(rng: np.random.Generator) -> None:
    shift, x, w = array(rng, D), array(rng, 2, D), array(rng, VOCABULARY, D)
    step = hire.transform(jax.jit(lambda x, w: head(x + shift, w)), hire.Config(rules=(HEAD,)))
    np.testing.assert_array_equal(step(x, w), head(x + shift, w))


def test_a_closed_over_numpy_weight_is_hoisted_too(rng: np.random.Generator) -> None:
    w, x = rng.normal(size=(8192, D)).astype(np.float32), array(rng, 2, D)
    step = hire.transform(jax.jit(lambda x: head(x, w)), hire.Config(rules=(HEAD,)))
    np.testing.assert_array_equal(step(x), np.argmax(np.asarray(x, np.float64) @ w.T.astype(np.float64), axis=-1))
    assert rewritten(step)
    assert len(step.lower(x).as_text()) < 100_000


def test_scope_names_survive_hoisting(rng: np.random.Generator) -> None:
    w, x = array(rng, 4096, D), array(rng, 2, D)

    def named(x: jax.Array) -> jax.Array:
        with jax.named_scope("decoder"), jax.named_scope("logits"):
            return head(x, w)

    (site,) = hire.inspect(named, x).sites
    assert site.path == "decoder/logits"
