"""Rows that are wanted together are dealt to different shards, by how often calibration saw them win."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.sharding.dealing import deal
from tests.sharded.programs import mesh_of, place, talk

D, VOCABULARY, WIDTH, BATCH = 64, 4096, 512, 4


def best_eight(params: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(x @ params["embed"].T, 8)


def ffn(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["up"] + params["bias"]) @ params["down"]


def zipf_head(rng: np.random.Generator, order: np.ndarray | None = None) -> tuple[np.ndarray, Any]:
    """A head whose wanted rows follow a power law, as words do, and lie along one direction the more frequent they are.

    Args:
      order: where the rows stand, the most frequent first; by default in order of frequency, as tokenizers write them.
    """
    share = 1 / (np.arange(VOCABULARY) + 2.0)
    share /= share.sum()
    common = rng.standard_normal(D) / 8
    embed = rng.standard_normal((VOCABULARY, D)) / 8 + 0.15 * np.log(share * VOCABULARY)[:, None] * common
    embed = embed.astype(np.float32)

    def inputs(batch: int) -> np.ndarray:
        drawn = [rng.choice(VOCABULARY, 4, replace=False, p=share) for _ in range(batch)]
        noise = rng.standard_normal((batch, D)) / 2
        return (np.stack([embed[ids].sum(axis=0) for ids in drawn]) + 2 * common + noise).astype(np.float32)

    if order is None:
        return embed, inputs
    placed = np.empty_like(embed)
    placed[order] = embed
    return placed, inputs


def recall(step: Any, params: Any, inputs: list[np.ndarray], mesh: Any) -> float:
    hits = 0.0
    for x in inputs:
        got = np.asarray(step(params, place(mesh, x))[1])
        want = np.argsort(-(x.astype(np.float64) @ np.asarray(params["embed"], np.float64).T), axis=1)[:, :8]
        hits += float(np.mean([len(set(a) & set(b)) / 8 for a, b in zip(got, want, strict=True)]))
    return hits / len(inputs)


def head_step(calibration: hire.Calibration, *, spread: bool) -> Any:
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=8), candidates=64, spread=spread)
    return hire.transform(jax.jit(best_eight), hire.Config(rules=(rule,), shard_recall=0.9), calibration=calibration)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4", "8"])
def test_hot_rows_of_a_vocabulary_are_found_as_on_one_device_once_they_are_spread(
    rng: np.random.Generator, mesh: str
) -> None:
    """In the order of frequency nearly all candidates stand in the first shard, which may keep only its share."""
    devices = mesh_of(mesh)
    embed, inputs = zipf_head(rng)
    calibration = hire.calibrate(best_eight, [({"embed": embed}, inputs(256)) for _ in range(2)])
    (counts,) = calibration.winners.values()
    assert counts.sum() == 2 * 256 * 64
    assert counts[: VOCABULARY // 4].sum() > 0.8 * counts.sum()
    held_out = [inputs(BATCH) for _ in range(32)]
    params = {"embed": place(devices, embed, "model", None)}
    natural = recall(head_step(calibration, spread=False), params, held_out, devices)
    step = head_step(calibration, spread=True)
    spread = recall(step, params, held_out, devices)
    (decision,) = step.report().rewritten
    assert "dealt to the shards by how often calibration saw them" in decision.reason
    whole = recall(head_step(calibration, spread=True), {"embed": jnp.asarray(embed)}, held_out, mesh_of("1"))
    assert spread > natural + 0.15, (natural, spread, whole)
    assert spread > whole - 0.03, (natural, spread, whole)


def test_calibration_spreads_rows_that_dealing_in_turn_would_bring_together(rng: np.random.Generator) -> None:
    devices = mesh_of("4")
    embed, inputs = zipf_head(rng, order=deal(np.zeros(VOCABULARY), 4).numbers.ravel())
    calibration = hire.calibrate(best_eight, [({"embed": embed}, inputs(256)) for _ in range(2)])
    held_out = [inputs(BATCH) for _ in range(32)]
    params = {"embed": place(devices, embed, "model", None)}
    uncounted = hire.Calibration(calibration.moments)
    in_turn = recall(head_step(uncounted, spread=True), params, held_out, devices)
    counted = recall(head_step(calibration, spread=True), params, held_out, devices)
    assert counted > in_turn + 0.1, (in_turn, counted)


@pytest.mark.slow
def test_dealt_rows_keep_the_authors_indices(rng: np.random.Generator) -> None:
    devices = mesh_of("4")
    embed, inputs = zipf_head(rng)
    embed[[7, 8, 1030]] = embed[3000]  # equal values in several shards: the lowest index comes first
    params = {"embed": place(devices, embed, "model", None)}
    calibration = hire.calibrate(best_eight, [({"embed": embed}, inputs(64))])
    for certify in (False, True, "strict"):
        rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=512, certify=certify, spread=True)
        step = hire.transform(jax.jit(best_eight), hire.Config(rules=(rule,)), calibration=calibration)
        for _ in range(4):
            x = place(devices, inputs(BATCH))
            assert np.array_equal(step(params, x)[1], jax.jit(best_eight)(params, x)[1])


def test_a_deal_is_a_permutation_that_shares_hot_rows_evenly(rng: np.random.Generator) -> None:
    for shards in (2, 4, 8):
        hotness = rng.permutation(1 / (np.arange(1024) + 1.0))
        dealing = deal(hotness, shards)
        numbers = dealing.numbers
        assert np.array_equal(np.sort(numbers.ravel()), np.arange(1024))
        assert (np.diff(numbers, axis=1) > 0).all()
        hot = set(np.argsort(-hotness)[: 16 * shards])
        assert max(len(hot & set(row)) for row in numbers) <= 16 + 2 * shards
        natural = 1 / (np.arange(1024) + 1.0)
        shares = [natural[row].sum() for row in deal(natural, shards).numbers]
        assert max(shares) < 2 * min(shares) if shards < 8 else max(shares) < 4 * min(shares)


def hot_neurons(rng: np.random.Generator, layers: int | None = None) -> dict[str, np.ndarray]:
    """A block whose active neurons stand together in the first shard: pruned or sorted models look like this."""
    stack = () if layers is None else (layers,)
    bias = np.where(np.arange(WIDTH) < WIDTH // 8, 1.0, -4.0) + 0.1 * rng.standard_normal((*stack, WIDTH))
    return {
        "up": rng.standard_normal((*stack, D, WIDTH)).astype(np.float32) / 8,
        "bias": bias.astype(np.float32),
        "down": rng.standard_normal((*stack, WIDTH, D)).astype(np.float32) / 8,
    }


def stack(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (x + ffn(w, x), None), x, params)[0]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["one", "stack"])
def test_hot_neurons_are_spread_too_if_a_calibration_counted_them(rng: np.random.Generator, program: str) -> None:
    devices, function = mesh_of("4"), ffn if program == "one" else stack
    host = hot_neurons(rng, None if program == "one" else 3)
    if program == "stack":  # other neurons are hot in every layer
        for name, axis in (("up", 1), ("bias", 0), ("down", 0)):
            host[name] = np.stack([np.roll(one, 128 * i, axis=axis) for i, one in enumerate(host[name])])
    own = () if program == "one" else (None,)
    params = {
        "up": place(devices, host["up"], *own, None, "model"),
        "bias": place(devices, host["bias"], *own, "model"),
        "down": place(devices, host["down"], *own, "model", None),
    }
    x = rng.standard_normal((BATCH, D)).astype(np.float32)
    calibration = hire.calibrate(function, [(host, rng.standard_normal((64, D)).astype(np.float32))])
    error = {}
    for spread in (False, True):
        rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), density=0.2, group=4, spread=spread)
        step = hire.transform(jax.jit(function), hire.Config(rules=(rule,), shard_recall=0.8), calibration=calibration)
        got, want = np.asarray(step(params, place(devices, x))), np.asarray(function(host, jnp.asarray(x)))
        error[spread] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    assert error[True] < 0.5 * error[False], error
    full = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), density=1.0, group=4, spread=True)
    step = hire.transform(jax.jit(function), hire.Config(rules=(full,)), calibration=calibration)
    assert np.allclose(step(params, place(devices, x)), want, atol=1e-4)
    assert [c.kind for c in talk(step, params, place(devices, x))] == ["all-reduce"]


def test_neurons_that_nobody_counted_are_not_dealt(rng: np.random.Generator) -> None:
    params = {name: place(mesh_of("4"), a) for name, a in hot_neurons(rng).items()}
    params["up"], params["bias"] = (
        place(mesh_of("4"), params["up"], None, "model"),
        place(mesh_of("4"), params["bias"], "model"),
    )
    params["down"] = place(mesh_of("4"), params["down"], "model", None)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), density=0.2, spread=True)
    with pytest.raises(hire.HireError, match="no calibration counted its neurons"):
        hire.transform(jax.jit(ffn), hire.Config(rules=(rule,)))(params, place(mesh_of("4"), jnp.ones((BATCH, D))))
