"""Tails whose values may be NaN or depend on a comparison in doubt, or that stand in a branch: the tokens of dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

V, D = 2048, 32
STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=192, certify="strict"),)
)

INTEGERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "a choice between whole numbers": lambda z: z + jnp.where(z < -15, 100, 0),
    "a whole number made of a comparison": lambda z: z + (z < -15).astype(jnp.int32),
    "arithmetic of whole numbers": lambda z: z + 100 * (z < -15).astype(jnp.int32),
    "logits made whole numbers": lambda z: z + (z * 10).astype(jnp.int32),
}
NOT_A_NUMBER: dict[str, Callable[[jax.Array], jax.Array]] = {
    "a root": jnp.sqrt,
    "a logarithm": jnp.log,
    "a power, bounded": lambda z: jnp.minimum(jax.lax.pow(z, jnp.full_like(z, 0.5)), 3.0),
}


def step_of(tail: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda w, x: jnp.argmax(tail(x @ w.T), axis=-1)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", INTEGERS)
def test_whole_numbers_that_depend_on_logits(name: str, rng: np.random.Generator) -> None:
    step = step_of(INTEGERS[name])
    fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
    w = drawn(rng.normal(size=(V, D)), jnp.float32)
    for _ in range(5):
        x = drawn(rng.normal(size=(3, D)), jnp.float32)
        np.testing.assert_array_equal(fast(w, x), dense(w, x))
    rewritten = len(fast.report().rewritten)
    assert rewritten == (name in ("a choice between whole numbers", "a whole number made of a comparison"))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", NOT_A_NUMBER)
def test_a_nan_just_below_zero_wins_as_in_dense(name: str, rng: np.random.Generator) -> None:
    w, x = np.abs(rng.normal(size=(V, D))), np.abs(rng.normal(size=(1, D))) + 0.1
    row = rng.normal(size=D)
    w[700] = row - (row @ x[0] + 1e-4) / (x[0] @ x[0]) * x[0]  # its logit is -1e-4, and its bounds hold zero
    weights, inputs = jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32)
    step = step_of(NOT_A_NUMBER[name])
    fast = hire.transform(jax.jit(step))
    assert jax.jit(step)(weights, inputs).item() == 700
    assert fast(weights, inputs).item() == 700
    assert len(fast.report().rewritten) == 1


@pytest.mark.slow
def test_a_winner_in_a_branch_of_logits_made_before_it(rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array, mask: jax.Array, greedy: Any) -> jax.Array:
        z = x @ w.T
        return jax.lax.cond(
            greedy,
            lambda: jnp.argmax(jnp.where(mask, z, -jnp.inf), axis=-1).astype(jnp.int32),
            lambda: jnp.zeros(3, jnp.int32),
        )

    fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
    w = drawn(rng.normal(size=(V, D)), jnp.float32).at[5].set(0.0)
    w = w.at[1900].set(w[3])
    for scale in (1.0, 0.0):
        for greedy in (True, False):
            x = drawn(rng.normal(size=(3, D)) * scale, jnp.float32)
            mask = jnp.asarray(rng.random((3, V)) < 0.5)
            np.testing.assert_array_equal(fast(w, x, mask, greedy), dense(w, x, mask, greedy))
    assert len(fast.report().rewritten) == 1


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_doubtful_row_of_a_batch_is_settled_by_its_own_products(batch: int, rng: np.random.Generator) -> None:
    """More rows than there are candidates lie closer than the copy can tell, and farther than sums round."""
    w = rng.normal(size=(V, D)) * 0.1
    x = rng.normal(size=(batch, D))
    w[: V // 2] = x[0] / np.linalg.norm(x[0]) + 1e-4 * rng.normal(size=(V // 2, D))

    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        z = x @ w.T
        return jnp.argmax(jnp.where(z >= jnp.max(z, axis=-1, keepdims=True) - 1.0, z, -jnp.inf), axis=-1)

    fast = hire.transform(step, STRICT)
    w, x = jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32)
    np.testing.assert_array_equal(fast(w, x), jax.jit(step)(w, x))
    (proof,) = fast.report().certificates
    assert proof.proven == batch
    alone = hire.transform(step, STRICT)
    np.testing.assert_array_equal(alone(w, x[:1]), jax.jit(step)(w, x[:1]))
    assert alone.report().certificates[0].proven == 0


@pytest.mark.slow
def test_what_cannot_be_followed_may_read_what_is_made_behind_the_tail(rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
        ids = jax.lax.top_k(jax.nn.softmax(x @ w.T, axis=-1), 3)[1]
        return ids // (n + 1), ids % (n * 2)

    fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((V, D), (2, D)))
    jax.tree.map(np.testing.assert_array_equal, fast(w, x, jnp.int32(7)), dense(w, x, jnp.int32(7)))
    assert len(fast.report().rewritten) == 1


@pytest.mark.slow
def test_the_last_of_sorted_values_that_were_negated_is_their_largest(rng: np.random.Generator) -> None:
    """A look-up at the last rank finds the least only of values as they were sorted."""

    def step(w: jax.Array, x: jax.Array, at: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = x @ w.T
        cut = jnp.take_along_axis(-jnp.sort(-z, axis=-1), at[:, None], axis=-1)
        kept = jnp.where(z < cut, -jnp.inf, z)
        return jax.random.categorical(key, kept, axis=-1), jax.random.categorical(key, z, axis=-1)

    fast, dense = hire.transform(step, STRICT), jax.jit(step)
    w = drawn(rng.normal(size=(V, D)), jnp.float32)
    for call in range(6):
        x = drawn(rng.normal(size=(4, D)), jnp.float32)
        at = jnp.asarray([0, V - 1, 5, 40] if call % 2 else [V - 1, 0, 0, V - 1], jnp.int32)
        jax.tree.map(
            np.testing.assert_array_equal, fast(w, x, at, jax.random.key(call)), dense(w, x, at, jax.random.key(call))
        )
    assert fast.report().certificates[0].proven > 0


def searched(w: jax.Array, x: jax.Array) -> jax.Array:
    """One of the best few, by a search in their running sum."""
    values, ids = jax.lax.top_k(x @ w.T, 8)
    summed = jnp.cumsum(jax.nn.softmax(values, axis=-1), axis=-1)
    return ids[0, jnp.searchsorted(summed[0], 0.4)]


def test_what_cannot_be_followed_from_values_of_the_best_few_stays_dense(rng: np.random.Generator) -> None:
    fast = hire.transform(jax.jit(searched))
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((V, D), (1, D)))
    assert fast(w, x) == jax.jit(searched)(w, x)
    (decision,) = fast.report().decisions
    assert decision.action == "dense"
    assert "what is made of its best 8 cannot be followed" in decision.reason


def test_rows_of_the_best_few_that_are_read_on_are_those_of_dense(rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        return w[jax.lax.top_k(x @ w.T, 4)[1]].sum(axis=2)

    rows = np.float32(rng.normal(size=(V // 8, D)))
    near = np.concatenate([rows, *[np.nextafter(rows, np.float32(sign * np.inf)) for sign in (1, -1) * 3], rows])
    fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
    for _ in range(6):
        w, x = jnp.asarray(rng.permutation(near)), drawn(rng.normal(size=(1, D)), jnp.float32)
        np.testing.assert_array_equal(fast(w, x), dense(w, x))
    assert len(fast.report().rewritten) == 1
