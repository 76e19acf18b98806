"""Certified heads: never another winner than dense's, whatever the weights look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.reports.findings import megabytes
from hire_compiler.runtime.target import stand_in, target_for
from tests.support.drawn import drawn
from tests.support.models import said

D, VOCABULARY = 32, 2048


def argmax(embed: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ embed.T, axis=-1)


def softcapped(embed: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.argmax(30 * jnp.tanh((x @ embed.T) / 30), axis=-1)


def biased(embed: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ embed.T + embed[:, 0], axis=-1)


def gaussian(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(VOCABULARY, D))


def near_ties(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(gaussian(rng)[: VOCABULARY // 4], 4, axis=0) * (1 + 1e-7 * rng.normal(size=(VOCABULARY, 1)))


def exact_ties(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([gaussian(rng)[: VOCABULARY // 2]] * 2)


def huge_norms(rng: np.random.Generator) -> np.ndarray:
    return gaussian(rng) * np.exp(rng.normal(size=(VOCABULARY, 1)) * 8)


def denormals(rng: np.random.Generator) -> np.ndarray:
    return gaussian(rng) * 1e-40


def zeros_and_spikes(rng: np.random.Generator) -> np.ndarray:
    return gaussian(rng) * (rng.random(size=(VOCABULARY, D)) < 0.02) * 50


WEIGHTS = [gaussian, near_ties, exact_ties, huge_norms, denormals, zeros_and_spikes]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("make", WEIGHTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("head", [argmax, softcapped], ids=lambda head: head.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strict_winners_are_those_of_dense(
    make: Callable[[np.random.Generator], np.ndarray], head: Callable[..., Any], dtype: str
) -> None:
    rng = np.random.default_rng(1)
    embed = jnp.asarray(make(rng), dtype)
    step, dense = hire.transform(jax.jit(head)), jax.jit(head)
    for _ in range(40):
        x = drawn(rng.normal(size=(2, D)), dtype)
        np.testing.assert_array_equal(step(embed, x), dense(embed, x))
    (certificate,) = step.report().certificates
    assert certificate.rows == 80
    if make is gaussian and dtype == "float32":
        assert certificate.proven >= 78  # a head that never proves anything would pass the rest of this test


@pytest.mark.slow
def test_a_bias_takes_part_in_the_proof() -> None:
    rng = np.random.default_rng(2)
    embed = jnp.asarray(gaussian(rng), jnp.float32)
    bias = drawn(rng.normal(size=VOCABULARY) * 20, jnp.float32)  # the bias decides, not the product

    def head(embed: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(x @ embed.T + bias, axis=-1)

    step = hire.transform(jax.jit(head))
    for _ in range(30):
        x = drawn(rng.normal(size=(1, D)), jnp.float32)
        np.testing.assert_array_equal(step(embed, bias, x), jax.jit(head)(embed, bias, x))
    assert "certified" in step.report().decisions[0].exactness


@pytest.mark.slow
def test_inputs_that_are_not_finite_get_what_dense_gives() -> None:
    rng = np.random.default_rng(3)
    embed = jnp.asarray(gaussian(rng), jnp.float32)
    step = hire.transform(jax.jit(argmax))
    for bad in (np.nan, np.inf, -np.inf):
        x = drawn(rng.normal(size=(3, D)), jnp.float32).at[1, 4].set(bad)
        np.testing.assert_array_equal(step(embed, x), jax.jit(argmax)(embed, x))
    (certificate,) = step.report().certificates
    assert certificate.proven <= certificate.rows - 3


@pytest.mark.slow
def test_top_k_is_a_valid_top_k_up_to_rounding() -> None:
    rng = np.random.default_rng(4)
    embed = jnp.asarray(gaussian(rng), jnp.float32)

    def head(embed: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tuple(jax.lax.top_k(x @ embed.T, 8))

    step = hire.transform(jax.jit(head))
    for _ in range(30):
        x = drawn(rng.normal(size=(2, D)), jnp.float32)
        values, ids = step(embed, x)
        logits = np.asarray(x, np.float64) @ np.asarray(embed, np.float64).T
        kept = np.take_along_axis(logits, np.asarray(ids), axis=1)
        np.testing.assert_allclose(values, kept, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.sort(kept)[:, ::-1], np.sort(logits)[:, ::-1][:, :8], rtol=1e-5, atol=1e-5)


TURNED: dict[str, Callable[..., jax.Array]] = {
    "folded": lambda z: -jnp.abs(z),
    "a penalty by sign": lambda z: jnp.where(z > 0, z / 1.2, z * 1.2),
    "a parabola": lambda z: 3 * z - z * z,
    "silu, negated": lambda z: -jax.nn.silu(z),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("strict", [True, "strict"])
@pytest.mark.parametrize("name", TURNED)
def test_code_that_turns_the_order_around_is_proven_by_its_bounds(name: str, strict: Any) -> None:
    def head(embed: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(TURNED[name](x @ embed.T), axis=-1)

    rng = np.random.default_rng(5)
    embed = jnp.asarray(gaussian(rng), jnp.float32)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=256, certify=strict)
    step, dense = hire.transform(jax.jit(head), hire.Config(rules=(rule,))), jax.jit(head)
    for _ in range(40):
        x = drawn(rng.normal(size=(2, D)), jnp.float32)
        np.testing.assert_array_equal(step(embed, x), dense(embed, x))
    flat = name in ("a parabola", "silu, negated")  # about the winners' peak many rows are too close for strictness
    assert step.report().certificates[0].proven > 0 or (flat and strict == "strict")


def test_other_predictors_cannot_be_certified() -> None:
    with pytest.raises(hire.ConfigError, match="certify needs"):
        hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=8, certify=True)


def test_logits_that_escape_are_left_dense_by_default() -> None:
    def head(embed: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x @ embed.T, axis=-1)

    rng = np.random.default_rng(6)
    embed, x = jnp.asarray(gaussian(rng), jnp.float32), drawn(rng.normal(size=(1, D)), jnp.float32)
    step = hire.transform(jax.jit(head))
    np.testing.assert_array_equal(step(embed, x), jax.jit(head)(embed, x))
    assert "the program returns values of the whole vocabulary" in step.report().decisions[0].reason


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_largest_logit_beside_its_index_is_a_winner_too(dtype: Any) -> None:
    def head(embed: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        logits = 30 * jnp.tanh(x @ embed.T / 30)
        return jnp.argmax(logits, axis=-1), jnp.max(logits, axis=-1, keepdims=True), 2 * jnp.max(logits, axis=-1)

    rng = np.random.default_rng(8)
    embed, x = jnp.asarray(gaussian(rng), dtype), drawn(rng.normal(size=(3, D)), dtype)
    step = hire.transform(jax.jit(head))
    for got, wanted in zip(step(embed, x), jax.jit(head)(embed, x), strict=True):
        np.testing.assert_allclose(
            got.astype(jnp.float32), wanted.astype(jnp.float32), rtol=1e-2 if dtype != jnp.float32 else 1e-5
        )
    assert step.report().decisions[0].action == "rewritten"
    assert "dot_general" not in step.lower(embed, x).as_text().split("func.func private")[0]
    x = x.at[1, 0].set(jnp.nan)
    for got, wanted in zip(step(embed, x), jax.jit(head)(embed, x), strict=True):
        np.testing.assert_array_equal(np.isnan(np.asarray(got, np.float32)), np.isnan(np.asarray(wanted, np.float32)))


@pytest.mark.slow
def test_by_default_a_head_that_is_read_sooner_than_candidates_are_chosen_stays_dense(
    rng: np.random.Generator,
) -> None:
    cpu = target_for("cpu")
    for vocabulary, batch, dtype, rewritten in (
        (4096, 1, "float32", 0), (16384, 1, "float32", 0), (24576, 1, "float32", 1), (24576, 2, "float32", 0),
        (32768, 1, "bfloat16", 0), (65536, 1, "bfloat16", 1),
    ):  # fmt: skip
        w = drawn(rng.normal(size=(vocabulary, 64)), dtype)
        x = drawn(rng.normal(size=(batch, 64)), dtype)
        step = hire.transform(lambda x, w: jnp.argmax(x @ w.T, axis=-1))
        with stand_in(replace(cpu, costs=replace(cpu.costs, choice_bytes=4 << 20))):
            np.testing.assert_array_equal(step(x, w), jnp.argmax(x @ w.T, axis=-1))
        assert len(step.report().rewritten) == rewritten
        if not rewritten:
            assert f"too small: reading all {megabytes(w.nbytes)} is faster" in said(step.report())
