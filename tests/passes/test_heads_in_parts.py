"""One head in several products, and several heads in one: the winners of dense, proven."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.models import VOCABULARY, D, array

CERTIFIED = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=32, certify="strict"),)
)
Params = dict[str, jax.Array]
Pair = tuple[jax.Array, jax.Array]
ADDED = 64


def softcap(z: jax.Array) -> jax.Array:
    return 5 * jnp.tanh(z / 5)


def added_tokens(p: Params, x: jax.Array) -> jax.Array:
    return jnp.argmax(softcap(jnp.concatenate([x @ p["w"], x @ p["added"]], -1)) + p["bias"], -1)


def three_parts(p: Params, x: jax.Array) -> jax.Array:
    return jnp.argmax(jnp.concatenate([x @ p["added"], x @ p["w"], x @ p["added"]], -1), -1)


def sliced_codebooks(p: Params, x: jax.Array) -> jax.Array:
    z = x @ p["w"]
    third = VOCABULARY // 4
    return jnp.stack([jnp.argmax(z[:, i * third : (i + 1) * third] / 0.7, -1) for i in range(4)], -1)


def unequal_heads(p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    z = x @ p["w"]
    return jnp.argmax(z[:, :300], -1), jnp.argmax(softcap(z[:, 300:]), -1)


def reshaped_codebooks(p: Params, x: jax.Array) -> jax.Array:
    return jnp.argmax(softcap((x @ p["w"]).reshape(len(x), 4, -1)), -1)


def padded(p: Params, x: jax.Array) -> jax.Array:
    return jnp.argmax(jnp.pad(x @ p["w"], ((0, 0), (2, ADDED)), constant_values=-jnp.inf), -1)


def filled_up(p: Params, x: jax.Array) -> jax.Array:
    filler = jnp.full((len(x), ADDED), -jnp.inf)
    return jnp.argmax(softcap(jnp.concatenate([(x @ p["w"])[:, :-ADDED], filler], -1)), -1)


WRITTEN = (
    added_tokens, three_parts, sliced_codebooks, unequal_heads, reshaped_codebooks, padded, filled_up,
)  # fmt: skip


def params_of(rng: np.random.Generator) -> Params:
    w, added = array(rng, D, VOCABULARY), array(rng, D, ADDED)
    return {"w": w, "added": added, "bias": array(rng, VOCABULARY + ADDED)}


@pytest.mark.slow
@pytest.mark.parametrize("written", [WRITTEN[0], *(pytest.param(w, marks=pytest.mark.slow) for w in WRITTEN[1:])])
def test_every_part_wins_as_in_dense(rng: np.random.Generator, written: Callable[..., Any]) -> None:
    params, function = params_of(rng), jax.jit(written)
    step = hire.transform(function, CERTIFIED)
    hard = [array(rng, 3, D), jnp.full((3, D), jnp.nan), jnp.zeros((3, D)), params["added"][:, :3].T * 4]
    for x in (*hard, array(rng, 3, D) * 30):
        for got, want in zip(jax.tree.leaves(step(params, x)), jax.tree.leaves(function(params, x)), strict=True):
            assert np.array_equal(got, want)
    assert step.report().rewritten
    assert not step.report().misses


@pytest.mark.slow
def test_equal_rows_in_two_products_win_as_in_dense(rng: np.random.Generator) -> None:
    params = params_of(rng)
    params["w"], params["bias"] = params["w"].at[:, :ADDED].set(params["added"]), jnp.zeros(VOCABULARY + ADDED)
    function = jax.jit(added_tokens)
    step = hire.transform(function, CERTIFIED)
    for i in range(4):
        x = params["added"][:, 3 * i : 3 * i + 3].T * 2
        assert np.array_equal(step(params, x), function(params, x))


def test_where_the_last_of_equal_numbers_wins_parts_stay_together(rng: np.random.Generator) -> None:
    def last(one: Pair, other: Pair) -> Pair:
        (a, i), (b, j) = one, other
        wins = (a > b) | ((a == b) & (i > j))
        return jnp.where(wins, a, b), jnp.where(wins, i, j)

    def program(p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jnp.concatenate([x @ p["w"], x @ p["w"]], -1)
        places = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
        found = jax.lax.reduce((z, places), (jnp.float32(-jnp.inf), jnp.int32(0)), last, (1,))
        return found[1], jnp.argmax(jnp.sin(x) @ p["w"], -1)

    params, x, function = params_of(rng), array(rng, 3, D), jax.jit(program)
    step = hire.transform(function, CERTIFIED)
    for got, wanted in zip(step(params, x), function(params, x), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert step.report().rewritten


def test_a_part_that_is_read_otherwise_keeps_a_head_dense_and_says_why(rng: np.random.Generator) -> None:
    def program(p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = x @ p["w"]
        half = VOCABULARY // 2
        return jnp.argmax(z[:, :half], -1), z[:, half:]

    (miss,) = hire.inspect(program, params_of(rng), array(rng, 3, D)).misses
    assert "several heads in one product" in miss.reason
    assert "returns values of the whole vocabulary" in miss.reason


IN_ONE_ARRAY = {"hvd": "bhv", "dhv": "hbv", "hdv": "bhv"}


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(d, marks=pytest.mark.slow) for d in ("bfloat16", "float16"))]
)
@pytest.mark.parametrize("stored", ["hvd", *(pytest.param(s, marks=pytest.mark.slow) for s in ("dhv", "hdv"))])
@pytest.mark.parametrize(
    "after", [softcap, pytest.param(lambda z: jax.nn.softmax(z.astype(jnp.float32)), marks=pytest.mark.slow)]
)
def test_heads_in_one_array_give_the_tokens_of_dense(
    stored: str, dtype: str, after: Callable[[jax.Array], jax.Array], rng: np.random.Generator
) -> None:
    """The author's own product settles doubts: one of rows in one dimension XLA:CPU sums otherwise."""
    heads = rng.normal(size=(3, 1024, D)).astype(np.float32)
    heads[0, 1::2] = np.nextafter(heads[0, ::2], np.float32(9))  # nothing proves which of them wins
    heads[1, 7] = heads[1, 3]
    w = jnp.asarray(heads.transpose(["hvd".index(axis) for axis in stored]), dtype)

    @jax.jit
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(after(jnp.einsum(f"bd,{stored}->{IN_ONE_ARRAY[stored]}", x, w)), -1)

    fast = hire.transform(step)
    for turn in range(8):
        x = jnp.asarray(heads[2, [turn, turn]] if turn < 4 else rng.normal(size=(2, D)), dtype)
        np.testing.assert_array_equal(fast(w, x), step(w, x))
    (site,) = fast.report().sites
    (decision,) = fast.report().decisions
    assert (decision.action, site.width) == ("rewritten", 3 * 1024)


def test_each_head_in_one_array_is_proven(rng: np.random.Generator) -> None:
    w, x = array(rng, 2, 1024, D), array(rng, 3, D)
    fast = hire.transform(lambda w, x: jnp.argmax(jnp.einsum("bd,hvd->bhv", x, w), -1))
    np.testing.assert_array_equal(fast(w, x), jnp.argmax(jnp.einsum("bd,hvd->bhv", x, w), -1))
    assert [(proof.proven, proof.rows) for proof in fast.report().certificates] == [(3, 3)]
