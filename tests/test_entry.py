"""A transformed function behaves like the jitted function it replaces."""

from __future__ import annotations

import functools
import gc
import inspect as python_inspect
import re
import threading
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models import (
    CONFIG,
    FFN,
    HEAD,
    VOCABULARY,
    WIDTH,
    D,
    array,
    decode,
    ffn,
    head,
    logits,
    rewritten,
    said,
    tokens,
    weights,
)

import hire_compiler as hire


@pytest.fixture
def params(rng: np.random.Generator) -> dict[str, Any]:
    return weights(rng)


# Compilations by XLA in this process, counted by JAX's own monitoring.
_COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_args, **_more: _COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture
def compilations() -> list[str]:
    _COMPILED.clear()
    return _COMPILED


def test_the_counter_of_compilations_counts(compilations: list[str], rng: np.random.Generator) -> None:
    x = np.ones(3, np.float32)
    jax.jit(lambda x: x * 3)(x)
    assert len(compilations) >= 1


# --------------------------------------------------------------------------- calling it


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


# --------------------------------------------------------------------------- donation


def append(params: dict[str, Any], cache: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    return decode(params, t), cache.at[0].add(1)


@pytest.mark.diagonal
@pytest.mark.parametrize("options", [{"donate_argnums": 1}, {"donate_argnums": (1,)}, {"donate_argnames": "cache"}])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_donated_cache_is_given_away(
    options: dict[str, Any], by_name: bool, params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(append, **options), CONFIG), tokens(rng)
    for _ in range(2):
        cache = array(rng, 8, 5)
        wanted = np.asarray(cache)
        wanted = np.concatenate([wanted[:1] + 1, wanted[1:]])
        _, got = step(params, cache=cache, t=t) if by_name else step(params, cache, t)
        np.testing.assert_array_equal(got, wanted)
        assert cache.is_deleted()
    assert rewritten(step) == ["ffn/0", "head/0"]
    assert not params["embed"].is_deleted()


def test_the_memory_of_a_donated_cache_is_reused(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, cache = hire.transform(jax.jit(append, donate_argnums=1), CONFIG), array(rng, 800, 50)
    compiled = step.lower(params, cache, tokens(rng)).compile()
    assert compiled.memory_analysis().alias_size_in_bytes >= cache.nbytes


def test_nothing_is_given_away_unasked(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, cache, t = hire.transform(jax.jit(append), CONFIG), array(rng, 8, 5), tokens(rng)
    step(params, cache, t)
    assert not any(a.is_deleted() for a in jax.tree.leaves((params, cache, t)))


@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_a_donated_weight_is_state_and_not_a_site(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head, donate_argnums=1), hire.Config(rules=(HEAD,)))
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    wanted = head(x, w)
    np.testing.assert_array_equal(step(x, w), wanted)
    assert not step.report().sites


# --------------------------------------------------------------------------- one compilation a signature


def test_a_second_call_neither_traces_nor_compiles(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    traced = []

    def counted(params: dict[str, Any], t: jax.Array) -> jax.Array:
        traced.append(t.shape)
        return decode(params, t)

    step, batches = hire.transform(jax.jit(counted), CONFIG), [tokens(rng) for _ in range(3)]
    step(params, batches[0])
    assert traced == [(2,)]
    assert compilations
    compilations.clear()
    for t in batches:
        step(params, t)
    assert traced == [(2,)]
    assert not compilations


def test_the_step_is_compiled_once_for_every_signature(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    batches = {b: tokens(rng, b) for b in (1, 2, 5)}
    prepared = step.prepare(params, batches[1])
    for t in batches.values():
        compilations.clear()
        step(params, t, prepared=prepared)
        assert len(compilations) == 1
    compilations.clear()
    for t in batches.values():
        step(params, t, prepared=prepared)
        step(params, t)
    assert not compilations


def test_new_values_of_the_weights_do_not_compile_again(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    step(params, t)
    others = weights(rng)
    compilations.clear()
    np.testing.assert_array_equal(step(others, t), np.argmax(logits(others, t), axis=-1))
    assert not compilations


def test_another_dtype_or_shape_is_another_signature(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head), hire.Config(rules=(HEAD,)))
    for dtype in (jnp.float32, jnp.bfloat16):
        for batch in (1, 3):
            x, w = array(rng, batch, D, dtype=dtype), array(rng, VOCABULARY, D, dtype=dtype)
            assert step(x, w).shape == (batch,)
            (site,) = step.report().sites
            assert (site.batch, site.dtype) == (batch, jnp.dtype(dtype).name)


def test_the_report_is_that_of_the_last_call_or_of_given_arguments(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    assert "not called yet" in said(step.report())
    first, second = tokens(rng, 1), tokens(rng, 4)
    step(params, first)
    step(params, second)
    assert step.report().sites[0].batch == 4
    step(params, first)
    assert step.report().sites[0].batch == 1
    assert step.report(params, second).sites[0].batch == 4


# --------------------------------------------------------------------------- lower


def test_lower_gives_the_step_program(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    lowered = step.lower(params, t)
    assert isinstance(lowered, jax.stages.Lowered)
    text = lowered.as_text()
    assert "hire_site" in text
    assert f"tensor<{VOCABULARY}x{D}xi8>" in text  # the int8 copy is an argument
    assert lowered.compile().cost_analysis() is not None


def test_lower_takes_shapes_alone(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, t))
    assert step.lower(*shapes).as_text() == step.lower(params, t).as_text()


def test_a_weight_that_only_a_site_reads_is_no_argument_of_the_step(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(ffn), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, WIDTH, D)
    main = re.search(r"func public @main\((.*?)\) ->", step.lower(x, up, down).as_text(), re.DOTALL)
    assert main is not None
    assert f"tensor<{D}x{WIDTH}xf32>" not in main[1]  # up is prepared as rows of neurons …
    assert main[1].count(f"tensor<{WIDTH}x{D}xf32>") == 2  # … and down is read from its own argument


def test_lowering_a_function_without_site_gives_its_own_program(rng: np.random.Generator) -> None:
    dense = jax.jit(lambda x: jnp.sin(x) + 1)
    step, x = hire.transform(dense, CONFIG), array(rng, 3)
    assert step.lower(x).as_text() == dense.lower(x).as_text()


# --------------------------------------------------------------------------- other kinds of functions


class NnxDecoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.up, self.down = nnx.Linear(D, WIDTH, rngs=rngs), nnx.Linear(WIDTH, D, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(D, VOCABULARY, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.argmax(self.head(x + self.down(jax.nn.relu(self.up(x)))), axis=-1)


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


# --------------------------------------------------------------------------- inside other transformations


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


def smooth(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return ffn(x, up, down).sum()


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


# --------------------------------------------------------------------------- left as it was


@pytest.mark.parametrize("effect", ["debug.print", "pure_callback", "io_callback"])
def test_a_function_that_calls_back_runs_as_it_was_and_says_so(
    effect: str, params: dict[str, Any], rng: np.random.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    called = []

    def chatty(params: dict[str, Any], t: jax.Array) -> jax.Array:
        if effect == "debug.print":
            jax.debug.print("token {}", t[0])
        elif effect == "pure_callback":
            t = jax.pure_callback(lambda t: called.append(1) or np.asarray(t), t, t)
        else:
            jax.experimental.io_callback(lambda t: called.append(1), None, t)
        return decode(params, t)

    step, t = hire.transform(jax.jit(chatty), CONFIG), tokens(rng)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))
    jax.effects_barrier()
    assert f"token {t[0]}" in capfd.readouterr().out if effect == "debug.print" else called
    assert not step.report().decisions
    assert re.search(
        r"chatty is not rewritten: it (calls back|has side effects).*runs exactly as it was", said(step.report())
    )


def test_a_function_without_site_runs_unchanged_and_says_why(rng: np.random.Generator) -> None:
    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    dense = jax.jit(plain)
    step, x, w = hire.transform(dense, CONFIG), array(rng, 2, D), array(rng, D, D)
    np.testing.assert_array_equal(step(x, w), dense(x, w))
    report = step.report()
    assert not report.sites
    assert len(report.misses) == 1
    assert report.misses[0].reason in said(report)
    assert "no site was found, so the function runs unchanged" in said(report)
    assert step.prepare(x, w) == {}


def test_a_function_without_site_keeps_its_gradient(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(lambda x: jnp.sum(jnp.sin(x))), CONFIG)
    x = array(rng, 5)
    np.testing.assert_allclose(jax.grad(step)(x), jnp.cos(x), rtol=1e-6)


def test_with_neither_rules_nor_exact_defaults_nothing_is_rewritten_and_every_site_says_why(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    dense, t = jax.jit(decode), tokens(rng)
    step = hire.transform(dense, hire.Config(exact=False))
    np.testing.assert_array_equal(step(params, t), dense(params, t))
    assert [decision.action for decision in step.report().decisions] == ["dense", "dense"]
    assert "no rule selects it" in said(step.report())


def test_the_callers_own_lowering_is_untouched(params: dict[str, Any], rng: np.random.Generator) -> None:
    dense, t = jax.jit(decode), tokens(rng)
    module = dense.lower(params, t).compiler_ir()
    before = str(module)
    step = hire.transform(dense, CONFIG)
    step(params, t)
    hire.inspect(dense, params, t)
    assert rewritten(step)
    assert str(module) == before
    assert str(dense.lower(params, t).compiler_ir()) == before
    np.testing.assert_array_equal(dense(params, t), np.argmax(logits(params, t), axis=-1))
    assert jax.grad(lambda up: smooth(jnp.ones((2, D)), up, params["mlp"]["down"]))(params["mlp"]["up"]).any()


def test_the_callers_arrays_and_trees_are_untouched(params: dict[str, Any], rng: np.random.Generator) -> None:
    t = tokens(rng)
    leaves, tree = jax.tree.flatten(params)
    before = [np.array(leaf) for leaf in leaves]
    hire.transform(jax.jit(decode), CONFIG)(params, t)
    after, tree_after = jax.tree.flatten(params)
    assert tree_after == tree
    assert all(one is other for one, other in zip(leaves, after, strict=True))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


# --------------------------------------------------------------------------- prepared weights


def flat(prepared: dict[str, dict[str, jax.Array]]) -> dict[tuple[str, str], jax.Array]:
    return {(key, name): array for key, arrays in prepared.items() for name, array in arrays.items()}


def same_arrays(one: Any, other: Any) -> bool:
    one, other = flat(one), flat(other)
    assert one
    assert one.keys() == other.keys()
    return all(one[key] is other[key] for key in one)


def test_the_same_arrays_are_prepared_once(params: dict[str, Any], rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    step(params, tokens(rng))
    first = step.prepare(params, tokens(rng))
    step(params, tokens(rng))
    assert same_arrays(first, step.prepare(params, tokens(rng)))
    rebuilt = jax.tree.map(lambda a: a, params)  # another tree of the same arrays
    assert same_arrays(first, step.prepare(rebuilt, tokens(rng)))


def test_new_arrays_are_prepared_again(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    first, others = step.prepare(params, t), weights(rng)
    second = step.prepare(others, t)
    assert not any(one is other for one, other in zip(flat(first).values(), flat(second).values(), strict=True))
    for p in (params, others, params):
        np.testing.assert_array_equal(step(p, t), np.argmax(logits(p, t), axis=-1))


def test_one_changed_weight_prepares_only_what_reads_it(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    first = step.prepare(params, t)
    changed = {**params, "mlp": {**params["mlp"], "up": array(rng, D, WIDTH)}}
    second = step.prepare(changed, t)
    kept = {key.split("|")[0] for key in first if all(first[key][n] is second[key][n] for n in first[key])}
    assert kept == {"head"}
    np.testing.assert_array_equal(step(changed, t), np.argmax(logits(changed, t), axis=-1))


def test_prefill_and_decode_share_one_prepared_weight(params: dict[str, Any], rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    prefill, one = step.prepare(params, tokens(rng, 8)), step.prepare(params, tokens(rng, 1))
    assert same_arrays(prefill, one)


def test_what_was_prepared_dies_with_its_weights(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    short_lived = weights(rng)
    step(short_lived, t)
    dying = [weakref.ref(array) for array in flat(step.prepare(short_lived, t)).values()]
    assert dying
    del short_lived
    gc.collect()
    assert not any(ref() is not None for ref in dying)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))


def test_a_transformed_function_does_not_keep_weights_alive(rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    short_lived = weights(rng)
    step(short_lived, t)
    dying = [weakref.ref(leaf) for leaf in jax.tree.leaves(short_lived)]
    del short_lived
    gc.collect()
    assert not any(ref() is not None for ref in dying)


def test_the_cache_of_prepared_weights_is_bounded(rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    alive = [weights(rng) for _ in range(12)]
    refs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hire.HireWarning)
        for p in alive:
            refs += [weakref.ref(array) for array in flat(step.prepare(p, t)).values()]
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= len(refs) // 2


def test_weights_that_change_on_every_call_are_warned_about(rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)

    def change_always() -> None:
        for _ in range(8):
            step(weights(rng), t)

    with pytest.warns(hire.HireWarning, match=r"params\['.*different arrays.*prepared="):
        change_always()


def test_writable_numpy_weights_are_prepared_anew_and_warned_about(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    mutable = jax.tree.map(np.array, params)

    def change_in_place() -> None:
        for _ in range(4):
            mutable["embed"][:] = rng.normal(size=mutable["embed"].shape)
            np.testing.assert_array_equal(step(mutable, t), np.argmax(logits(mutable, t), axis=-1))

    with pytest.warns(hire.HireWarning, match=r"writable NumPy arrays are prepared anew.*jnp\.asarray"):
        change_in_place()


def test_numpy_weights_that_jax_owns_are_prepared_once(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    frozen = jax.tree.map(np.asarray, params)
    assert same_arrays(step.prepare(frozen, t), step.prepare(frozen, t))


@pytest.mark.parametrize("called_before", [False, True])
def test_deleted_weights_are_an_error(called_before: bool, rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(ffn), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, D, WIDTH).T
    if called_before:
        step(x, up, down)
    up.delete()
    with pytest.raises((hire.WeightError, RuntimeError), match="deleted"):
        step(x, up, down)


def test_prepared_weights_of_another_function_are_refused(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    other = hire.transform(jax.jit(head), hire.Config(rules=(HEAD,)))
    strange = other.prepare(array(rng, 2, D), array(rng, VOCABULARY, D))
    with pytest.raises(hire.WeightError, match=r"prepared= lacks .*step\.prepare"):
        step(params, t, prepared=strange)
    with pytest.raises(hire.WeightError, match="prepared= lacks"):
        step(params, t, prepared={})


def test_prepared_weights_of_another_shape_are_refused(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    other = weights(rng, VOCABULARY * 2)
    with pytest.raises(hire.WeightError, match="shape"):
        step(params, t, prepared=step.prepare(other, t))


def test_prepared_weights_are_what_is_used(params: dict[str, Any], rng: np.random.Generator) -> None:
    """Handing in the int8 copy of another embedding changes what the head finds: nothing is prepared in secret."""
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng, 8)
    own, other = step.prepare(params, t), step.prepare(weights(rng), t)
    mixed = {key: other[key] if key.startswith("head") else own[key] for key in own}
    np.testing.assert_array_equal(step(params, t, prepared=own), step(params, t))
    assert (np.asarray(step(params, t, prepared=mixed)) != np.asarray(step(params, t))).any()


def test_threads_may_call_it_at_once(params: dict[str, Any], rng: np.random.Generator) -> None:
    traced = []

    def counted(params: dict[str, Any], t: jax.Array) -> jax.Array:
        traced.append(1)
        return decode(params, t)

    step = hire.transform(jax.jit(counted), CONFIG)
    sets = [params, weights(rng)]
    batches = [tokens(rng) for _ in range(4)]
    wanted = {(i, j): np.argmax(logits(p, t), axis=-1) for i, p in enumerate(sets) for j, t in enumerate(batches)}
    wrong: list[Any] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        try:
            for round_ in range(10):
                i, j = (number + round_) % 2, (number + round_) % 4
                got = step(sets[i], batches[j])
                if not np.array_equal(got, wanted[i, j]):
                    wrong.append((i, j))
        except Exception as error:
            wrong.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hire.HireWarning)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(traced) == 1


# --------------------------------------------------------------------------- inspect


def test_inspect_takes_shapes_and_runs_nothing(params: dict[str, Any], rng: np.random.Generator) -> None:
    t = tokens(rng)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, t))
    report = hire.inspect(decode, *shapes)
    assert [site.id for site in report.sites] == ["ffn/0", "head/0"]
    assert not report.decisions
    assert hire.inspect(jax.jit(decode), params, t) == report
    assert hire.inspect(hire.transform(jax.jit(decode), CONFIG), params, t) == report


def test_inspect_reads_every_form_of_a_saved_program(
    params: dict[str, Any], rng: np.random.Generator, tmp_path: Path
) -> None:
    t = tokens(rng)
    exported = jax.export.export(jax.jit(decode))(params, t)
    forms = {
        "text.mlir": str(jax.jit(decode).lower(params, t).compiler_ir()).encode(),
        "portable.mlirbc": exported.mlir_module_serialized,
        "exported.bin": bytes(exported.serialize()),
    }
    wanted = [(s.kind, s.width, s.d, s.batch) for s in hire.inspect(decode, params, t).sites]
    assert wanted == [("ffn", WIDTH, D, 2), ("head", VOCABULARY, D, 2)]
    for name, data in forms.items():
        path = tmp_path / name
        path.write_bytes(data)
        for target in (path, str(path)):
            assert [(s.kind, s.width, s.d, s.batch) for s in hire.inspect(target).sites] == wanted
    assert [(s.kind, s.width, s.d, s.batch) for s in hire.inspect(exported).sites] == wanted


def test_a_step_in_bfloat16_runs(rng: np.random.Generator) -> None:
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), weights(rng))
    t = tokens(rng, 4)
    step = hire.transform(jax.jit(decode), CONFIG)
    dense = logits(jax.tree.map(lambda a: a.astype(jnp.float32), params), t)
    chosen = np.take_along_axis(dense, np.asarray(step(params, t))[:, None], axis=1)[:, 0]
    assert (chosen >= dense.max(axis=1) - 0.05 * np.abs(dense).max()).all()
    assert rewritten(step) == ["ffn/0", "head/0"]
