"""Heads at small width: whatever stands between the product and its readers, the right rows are found.

The int8 copy of random weights ranks nearly as the weights do, so with an eighth of the rows as candidates the dense
winners are always among them, unless the candidates are chosen by something other than what the reader compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.models import HEAD, VOCABULARY, D, array

Array = np.ndarray
BATCH, TOP = 3, 4
CONFIG = hire.Config(rules=(HEAD,))


def wide(array: Any) -> Array:
    return np.asarray(jnp.asarray(array).astype(jnp.float32), np.float64)


def vectors(rng: np.random.Generator) -> dict[str, Any]:
    """Parameters that may enter between the product and its reader."""
    rare = np.zeros(VOCABULARY, bool)
    rare[rng.choice(VOCABULARY, 12, replace=False)] = True
    return {
        "bias": array(rng, VOCABULARY) * 40,
        "scale": array(rng, VOCABULARY),
        "allowed": jnp.asarray(rare),
        "penalty": jnp.where(jnp.asarray(rare), 0.0, -1e4),
        "temperature": jnp.float32(0.3),
    }


ON_THE_WAY: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "nothing": lambda z, p: z,
    "a bias": lambda z, p: z + p["bias"],
    "a bias taken away": lambda z, p: z - p["bias"],
    "a sign change": lambda z, p: -z,
    "a division by a negative number": lambda z, p: z / -0.5,
    "the size alone": lambda z, p: abs(z),
    "a scale of every row": lambda z, p: z * p["scale"],
    "a scale, then a bias": lambda z, p: z * p["scale"] + p["bias"],
    "a temperature": lambda z, p: z / p["temperature"],
    "a softcap": lambda z, p: 5 * (jnp if isinstance(z, jax.Array) else np).tanh(z / 5),
    "a softcap of the negative": lambda z, p: 5 * (jnp if isinstance(z, jax.Array) else np).tanh(-z / 5),
    "a bias, then a softcap": lambda z, p: 50 * (jnp if isinstance(z, jax.Array) else np).tanh((z + p["bias"]) / 50),
    "a penalty on all but a few": lambda z, p: z + p["penalty"],
    "a mask that allows a few": lambda z, p: (jnp if isinstance(z, jax.Array) else np).where(p["allowed"], z, -1e9),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ON_THE_WAY)
def test_the_dense_winners_are_found_behind(name: str, dtype: str, rng: np.random.Generator) -> None:
    transform = ON_THE_WAY[name]
    x, w, p = array(rng, BATCH, D, dtype=dtype), array(rng, VOCABULARY, D, dtype=dtype), vectors(rng)

    def program(x: jax.Array, w: jax.Array, p: dict[str, Any]) -> Any:
        logits = transform((x @ w.T).astype(jnp.float32), p)
        return jnp.argmax(logits, axis=-1), jax.lax.top_k(logits, TOP)

    step = hire.transform(jax.jit(program), CONFIG)
    best, (values, ids) = step(x, w, p)
    assert [decision.site for decision in step.report().rewritten] == ["head/0"]
    raw = wide(x) @ wide(w).T
    logits = transform(raw, {key: value if value.dtype == bool else wide(value) for key, value in p.items()})
    room = (0.01 if dtype == "bfloat16" else 1e-5) * np.abs(raw).max() * (1 + float(jnp.abs(p["scale"]).max()))
    wanted = -np.sort(-logits, axis=1)[:, :TOP]
    np.testing.assert_allclose(np.take_along_axis(logits, np.asarray(ids), axis=1), wanted, atol=room)
    np.testing.assert_allclose(np.take_along_axis(logits, np.asarray(best)[:, None], axis=1), wanted[:, :1], atol=room)
    np.testing.assert_allclose(values, np.take_along_axis(logits, np.asarray(ids), axis=1), atol=room)


def test_two_readers_that_want_opposite_rows_both_get_theirs(rng: np.random.Generator) -> None:
    x, w = array(rng, BATCH, D), array(rng, VOCABULARY, D)
    step = hire.transform(lambda x, w: (jnp.argmax(x @ w.T, -1), jnp.argmax(-(x @ w.T), -1)), CONFIG)
    logits = wide(x) @ wide(w).T
    highest, lowest = step(x, w)
    np.testing.assert_array_equal(highest, logits.argmax(axis=1))
    np.testing.assert_array_equal(lowest, logits.argmin(axis=1))


def test_every_batch_row_has_its_own_candidates(rng: np.random.Generator) -> None:
    """One union of candidates would do for two rows, but not for sixteen rows that each want other tokens."""
    x, w = array(rng, 16, D), array(rng, VOCABULARY, D)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=8)
    step = hire.transform(lambda x, w: jax.lax.top_k(x @ w.T, 4), hire.Config(rules=(rule,)))
    logits = wide(x) @ wide(w).T
    np.testing.assert_array_equal(step(x, w)[1], np.argsort(-logits, axis=1)[:, :4])


def test_among_equal_logits_the_lowest_index_wins_as_in_dense(rng: np.random.Generator) -> None:
    rows = rng.integers(-3, 4, (VOCABULARY, D)).astype(np.float32)
    rows[:] = rows[rng.integers(0, 40, VOCABULARY)]  # every row stands there about a dozen times
    x, w = jnp.asarray(rng.integers(-3, 4, (BATCH, D)), jnp.float32), jnp.asarray(rows)
    program = lambda x, w: (jnp.argmax(x @ w.T, -1), jax.lax.top_k(x @ w.T, 20))  # noqa: E731
    best, (values, ids) = hire.transform(program, CONFIG)(x, w)
    logits = np.asarray(x, np.float64) @ rows.T.astype(np.float64)
    wanted = np.argsort(-logits, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(best, wanted[:, 0])
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_array_equal(values, np.take_along_axis(logits, wanted, axis=1))


@pytest.mark.parametrize("tail", ["predicted", "dropped"])
def test_a_softmax_over_few_candidates_is_nearly_right_with_predicted_tail_and_sums_to_one(
    tail: str, rng: np.random.Generator
) -> None:
    x, w = array(rng, BATCH, D), array(rng, VOCABULARY, D)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=32, tail=tail)
    got = np.asarray(hire.transform(lambda x, w: jax.nn.softmax(x @ w.T), hire.Config(rules=(rule,)))(x, w))
    wanted = scipy.special.softmax(wide(x) @ wide(w).T, axis=1)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    if tail == "predicted":
        np.testing.assert_allclose(got, wanted, rtol=0.2, atol=1e-3)
        assert (got > 0).all()
    else:
        assert ((got > 0).sum(axis=1) <= 32).all()
        kept = got > 0
        np.testing.assert_allclose(got[kept], (wanted * kept / (wanted * kept).sum(1, keepdims=True))[kept], rtol=1e-4)


def test_a_dropped_tail_that_a_softcap_would_bring_back_is_refused(rng: np.random.Generator) -> None:
    """Capping −inf gives −cap: a probability, small but not zero, for every row that was to be dropped."""
    x, w = array(rng, BATCH, D), array(rng, VOCABULARY, D)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=32, tail="dropped")
    step = hire.transform(lambda x, w: jax.nn.softmax(2 * jnp.tanh(x @ w.T / 2)), hire.Config(rules=(rule,)))
    with pytest.raises(hire.ConfigError, match=r"tail='dropped' is lost.*softcap"):
        step(x, w)


def test_sampling_keeps_its_noise(rng: np.random.Generator) -> None:
    """The same key gives the same draw as dense: the noise is drawn for the whole vocabulary."""
    x, w = array(rng, 8, D) / 3, array(rng, VOCABULARY, D)

    def program(x: jax.Array, w: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, x @ w.T)

    step = hire.transform(jax.jit(program), CONFIG)
    draws = [(step(x, w, jax.random.key(i)), program(x, w, jax.random.key(i))) for i in range(10)]
    assert len({tuple(np.asarray(mine)) for mine, _ in draws}) > 1
    equal = np.mean([np.asarray(mine) == np.asarray(dense) for mine, dense in draws])
    assert equal > 0.9


def test_a_head_shared_by_two_readers_in_different_blocks_of_the_program(rng: np.random.Generator) -> None:
    x, w = array(rng, BATCH, D), array(rng, VOCABULARY, D)

    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        logits = x @ w.T
        return jax.lax.cond(x[0, 0] > 0, lambda: jnp.argmax(logits, -1), lambda: jnp.argmax(logits + 1, -1))

    for sign in (1, -1):
        given = x.at[0, 0].set(sign * 1.0)
        got = hire.transform(jax.jit(program), CONFIG)(given, w)
        np.testing.assert_array_equal(
            got, np.argmax(np.asarray(given, np.float64) @ np.asarray(w, np.float64).T, axis=1)
        )


def test_the_position_that_is_read_is_all_that_is_compared(rng: np.random.Generator) -> None:
    """The candidates are not shared out between the logits of all positions and those of the last one."""

    def program(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = (x @ w)[:, -1].astype(jnp.float32)
        return jnp.argmax(logits, -1), jax.nn.softmax(logits)

    w = drawn(rng.normal(size=(8, 1024)), jnp.bfloat16)
    x = drawn(rng.normal(size=(2, 3, 8)), jnp.bfloat16)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64, tail="dropped")
    _, probabilities = hire.transform(program, hire.Config(rules=(rule,)))(w, x)
    assert (np.count_nonzero(probabilities, axis=1) == 64).all()
