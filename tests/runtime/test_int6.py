"""A 6-bit copy: four numbers in three bytes, as a predictor of blocks and heads."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.predictors import kept_for, predict
from hire_compiler.runtime.quantized import prepare_int6, unpack_int6
from hire_compiler.runtime.target import target_for
from tests.support.drawn import drawn

TARGETS = {name: target_for(name) for name in ("cpu", "gpu", "tpu")}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("d", [1, 4, 5, 18, 64])
def test_packing_loses_nothing(d: int, rng: np.random.Generator) -> None:
    """Whole numbers of up to 31 come back as they were; three bytes hold four."""
    rows = rng.integers(-31, 32, size=(50, d)).astype(np.float32)
    rows[:, 0] = np.where(rng.random(50) < 0.5, 31, -31)  # so that the scale is one
    made = prepare_int6(jnp.asarray(rows))
    np.testing.assert_array_equal(unpack_int6(made["q6"])[:, :d] * made["scale6"][:, None], rows)
    assert made["q6"].dtype == jnp.uint8
    assert made["q6"].shape == (3, 50, -(-d // 4))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_number_is_off_by_half_a_step_at_most(scale: float, rng: np.random.Generator) -> None:
    rows = (rng.normal(size=(40, 22)) * scale).astype(np.float32)
    rows[3] = 0
    made = prepare_int6(jnp.asarray(rows))
    error = np.abs(np.asarray(unpack_int6(made["q6"])[:, :22] * made["scale6"][:, None], np.float64) - rows)
    assert (error <= np.abs(rows).max(axis=1, keepdims=True) / 62 * 1.001).all()


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize(("n", "d", "batch"), [(7, 10, 1), (5000, 130, 1), (5000, 130, 8), (4096, 64, 3)])
def test_scores_are_those_of_the_unpacked_copy(
    platform: str, n: int, d: int, batch: int, rng: np.random.Generator
) -> None:
    rows, x = (drawn(rng.normal(size=shape), jnp.float32) for shape in ((n, d), (batch, d)))
    made = prepare_int6(rows)
    copy = np.asarray(unpack_int6(made["q6"]), np.float64)[:, :d] * np.asarray(made["scale6"], np.float64)[:, None]
    got = jax.jit(lambda x, a: predict(x, a, TARGETS[platform]))(x, kept_for(made, d, TARGETS[platform]))
    np.testing.assert_allclose(got, np.asarray(x, np.float64) @ copy.T, rtol=1e-4, atol=1e-3)


def head(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(x @ w.T, 4)


def test_a_head_keeps_three_quarters_of_the_bytes_of_int8(rng: np.random.Generator) -> None:
    w, x = (drawn(rng.normal(size=shape), jnp.float32) for shape in ((4096, 64), (2, 64)))
    rule = hire.Rule(kind="head", predictor=hire.Quantized(6), candidates=256)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    for got, wanted in zip(step(w, x), head(w, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    decision = step.report().decisions[0]
    assert decision.predictor == "Quantized(bits=6)"
    assert decision.added_bytes == 4096 * (48 + 4)
    assert sum(a.nbytes for a in jax.tree.leaves(step.prepare(w, x))) == decision.added_bytes


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("layers", [None, 3])
def test_a_block_finds_its_neurons(layers: int | None, rng: np.random.Generator) -> None:
    def one(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w["up"]) @ w["down"]

    def function(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return one(w, x) if layers is None else jax.lax.scan(lambda h, own: (jnp.sin(h + one(own, h)), None), x, w)[0]

    stack = () if layers is None else (layers,)
    shapes = {"up": (32, 256), "down": (256, 32)}
    w = {name: drawn(rng.normal(size=(*stack, *shape)) / 8, jnp.float32) for name, shape in shapes.items()}
    x = drawn(rng.normal(size=(1, 32)), jnp.float32)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(6), density=0.625, group=1)
    step = hire.transform(jax.jit(function), hire.Config(rules=(rule,)))
    np.testing.assert_allclose(step(w, x), jax.jit(function)(w, x), rtol=2e-3, atol=2e-3)
    kept = hire.Plan.from_json(step.plan(w, x).to_json())
    np.testing.assert_array_equal(hire.transform(function, hire.Config(plan=kept))(w, x), step(w, x))


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(hire.ConfigError, match="a 6-bit copy has one scale per row"):
        hire.Quantized(6, columns=64)
    with pytest.raises(hire.ConfigError, match="certify needs predictor=Quantized"):
        hire.Rule(kind="head", predictor=hire.Quantized(6), candidates=64, certify=True)
    with pytest.raises(hire.ConfigError, match=r"second pass is Quantized\(8\)"):
        hire.Cascade(hire.LowRank(8), replace(hire.Quantized(), bits=6))
