"""Certified heads over shards: the tokens of dense, proven shard by shard against the winners of all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.collectives import Numbering
from tests.sharded.programs import batch_axis, mesh_of, place, talk
from tests.sharded.test_local_choice import BATCH, VOCABULARY, best_eight, greedy, head_arguments, logits, rules


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mesh", ["4", "8", "2x2"])
def test_the_exact_default_gives_the_tokens_of_dense(rng: np.random.Generator, mesh: str, dtype: str) -> None:
    devices = mesh_of(mesh)
    params, x = head_arguments(rng, devices, jnp.dtype(dtype))
    step, dense = hire.transform(jax.jit(greedy)), jax.jit(greedy)
    for _ in range(4):
        assert np.array_equal(step(params, x), dense(params, x))
        x = place(devices, jnp.roll(x, 1, axis=1), batch_axis(devices))
    report = step.report()
    assert [d.shards for d in report.rewritten] == [devices.shape["model"]]
    (proof,) = report.certificates
    assert proof.rows == 4 * BATCH
    if dtype == "float32":
        assert proof.proven == proof.rows


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, "strict"])
@pytest.mark.parametrize("by", ["vocabulary", "d"])
def test_top_k_over_shards(rng: np.random.Generator, strict: Any, by: str) -> None:
    params, x = head_arguments(rng, mesh_of("4"), by=by)
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=256, certify=strict))
    got, want = step(params, x), jax.jit(best_eight)(params, x)
    assert np.array_equal(got[1], want[1])
    assert step.report().certificates[0].rows == BATCH


@pytest.mark.slow
def test_rivals_in_another_shard_undo_a_strict_proof(rng: np.random.Generator) -> None:
    """Rows of different shards a rounding apart: no shard can see it alone, and dense decides."""
    mesh = mesh_of("4")
    params, x = head_arguments(rng, mesh)
    x = place(mesh, jnp.broadcast_to(x[:1], x.shape))
    embed = np.array(params["embed"])
    embed[5] = np.asarray(x[0]) * 2  # wins
    for twin in (1500, 3000):
        embed[twin] = embed[5] * np.float32(1 + 1e-7)
    params["embed"] = place(mesh, embed, "model", None)
    params["bias"] = place(mesh, jnp.zeros(VOCABULARY))
    step, dense = hire.transform(jax.jit(greedy)), jax.jit(greedy)
    assert np.array_equal(step(params, x), dense(params, x))
    assert step.report().certificates[0].proven == 0
    relaxed = hire.transform(jax.jit(greedy), rules("head", candidates=256, certify=True))
    assert set(np.asarray(relaxed(params, x)).tolist()) <= {5, 1500, 3000}
    assert relaxed.report().certificates[0].proven == BATCH


def test_one_shard_without_a_proof_brings_no_other_to_a_stop(rng: np.random.Generator) -> None:
    """Few candidates, and one shard full of rows that bounds cannot tell apart: that shard alone runs dense."""
    mesh = mesh_of("4")
    params, x = head_arguments(rng, mesh)
    embed = np.array(params["embed"])
    embed[1024:2048] = np.asarray(x[0]) + rng.normal(size=(1024, embed.shape[1])) * 1e-3
    params["embed"] = place(mesh, embed.astype(np.float32), "model", None)
    config = rules("head", candidates=16, certify=True)
    step, dense = hire.transform(jax.jit(greedy), config), jax.jit(greedy)
    exact = np.asarray(x, np.float64) @ embed.T.astype(np.float64) + np.asarray(params["bias"], np.float64)
    for got, want, row in zip(step(params, x), dense(params, x), exact, strict=True):
        assert row[got] == pytest.approx(row[want], abs=1e-4)
    assert step.report().certificates[0].proven < BATCH


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("devices", [4, 8])
def test_a_proof_costs_three_small_exchanges(rng: np.random.Generator, devices: int) -> None:
    params, x = head_arguments(rng, mesh_of(str(devices)))
    found = talk(hire.transform(jax.jit(greedy)), params, x)
    always = [c for c in found if not c.conditional]  # the author's own stand in the branch that settles a doubt
    assert {c.kind for c in always} <= {"all-gather", "all-reduce"}
    assert len(always) < len(found)
    assert max(c.result_bytes for c in found) <= 8 * devices * BATCH  # of each shard a value and a row, on every shard


def test_bounds_that_travel_in_eight_bytes_hold_those_that_were_sent(rng: np.random.Generator) -> None:
    mesh, k, rows = mesh_of("8"), 3, 1000
    low = np.float32(rng.normal(size=(BATCH, 8 * k)) * 10.0 ** rng.integers(-30, 30, size=(BATCH, 8 * k)))
    high = low + np.abs(low) * np.float32(10.0) ** -rng.integers(0, 9, size=low.shape).astype(np.float32)
    high[0], low[1, 0], high[1, 1] = low[0], -np.inf, np.inf
    low[2, :2] = high[2, :2] = -np.inf, np.inf
    low[3, 0], high[3, 1], low[3, 2] = np.nan, np.nan, high[3, 2]
    ids = rng.integers(0, rows, size=low.shape).astype(np.int32)

    def meet(*own: jax.Array) -> list[jax.Array]:
        return Numbering(rows, ("model",)).gather_enclosed(*own)

    split, same = jax.P(None, "model"), [jax.P()] * 4
    met = jax.jit(jax.shard_map(meet, mesh=mesh, in_specs=(split,) * 3, out_specs=same, check_vma=False))
    everyone, lower, higher, middle = map(np.asarray, met(ids, low, high))
    assert np.array_equal(everyone, ids + np.arange(8 * k) // k * rows)
    known = ~(np.isnan(low) | np.isnan(high))
    assert not (lower > low)[known].any()  # NaN, where a bound is infinite, fails a proof
    assert not (higher < high)[known].any()
    assert np.isnan(lower[~known] + higher[~known]).all()
    assert np.array_equal(lower[0], low[0])
    assert np.array_equal(higher[0], low[0])
    finite = known & np.isfinite(low) & np.isfinite(high)
    assert np.array_equal(middle[finite], ((low + high) / 2)[finite])
    width, sent = (higher - lower)[finite], (high - low)[finite]
    assert (width <= sent * 1.03 + np.abs(middle[finite]) * 2.0**-20 + 2.0**-110).all()


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("certify", [False, True, "strict"])
@pytest.mark.parametrize("by", ["vocabulary", "d"])
def test_rows_dealt_in_turn_keep_their_numbers(rng: np.random.Generator, by: str, certify: Any) -> None:
    mesh = mesh_of("4")
    params, x = head_arguments(rng, mesh, by=by)
    embed = np.array(params["embed"])
    embed[[7, 8, 1030]] = embed[3000]  # equal values in several shards
    params["embed"] = place(mesh, embed, *(("model", None) if by == "vocabulary" else (None, "model")))
    for function in (best_eight, greedy):
        step = hire.transform(jax.jit(function), rules("head", candidates=256, certify=certify, spread=True))
        for got, want in zip(
            jax.tree.leaves(step(params, x)), jax.tree.leaves(jax.jit(function)(params, x)), strict=True
        ):
            assert np.allclose(got, want, atol=1e-5)


def test_without_a_calibration_neighbours_go_to_different_shards(rng: np.random.Generator) -> None:
    params, x = head_arguments(rng, mesh_of("4"))
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=64, spread=True))
    (arrays,) = step.prepare(params, x).values()
    numbers = np.asarray(arrays["numbers"])
    assert np.array_equal(arrays["rows0"], np.asarray(params["embed"])[numbers])
    owner = np.argsort(numbers) // (VOCABULARY // 4)
    assert all(set(owner[i : i + 4]) == {0, 1, 2, 3} for i in range(0, VOCABULARY, 4))


def test_logits_in_the_order_of_the_vocabulary_are_not_dealt(rng: np.random.Generator) -> None:
    params, x = head_arguments(rng, mesh_of("4"))
    with pytest.raises(hire.HireError, match="order of the vocabulary"):
        hire.transform(jax.jit(logits), rules("head", candidates=64, spread=True))(params, x)


@pytest.mark.slow
def test_a_softmax_is_certified_by_default(rng: np.random.Generator) -> None:
    mesh = jax.make_mesh((4,), ("m",))
    w = place(mesh, np.float32(rng.normal(size=(65536, 64))), "m", None)
    x = place(mesh, np.float32(rng.normal(size=(1, 64))))
    step = jax.jit(lambda w, x: jnp.argmax(jax.nn.softmax(x @ w.T, axis=-1), axis=-1))
    fast = hire.transform(step)
    np.testing.assert_array_equal(fast(w, x), step(w, x))
    report = fast.report()
    assert [decision.shards for decision in report.rewritten] == [4]
    assert report.certificates[0].proven == 1
