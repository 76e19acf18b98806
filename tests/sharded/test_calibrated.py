"""Shards of feed-forward blocks with a calibration: budgets, sizes of groups, recall, and why no common path."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import mesh_of, place, random

D, WIDTH = 256, 2048


def block(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]


def arguments(mesh: Any, shift: Any, width: int = WIDTH) -> tuple[dict[str, jax.Array], jax.Array]:
    rng = np.random.default_rng(0)
    w = {
        "up": place(mesh, random(rng, width, D).T, None, "model"),
        "bias": place(mesh, jnp.broadcast_to(jnp.asarray(shift, jnp.float32), width), "model"),
        "down": place(mesh, random(rng, width, D), "model", None),
    }
    return w, place(mesh, random(rng, 2, D) * 16)


def learned(w: dict[str, jax.Array], config: hire.Config | None = None) -> hire.Calibration:
    whole = jax.tree.map(np.asarray, w)
    xs = np.random.default_rng(3).normal(size=(2, 32, D)).astype(np.float32)
    return hire.calibrate(block, [(whole, x) for x in xs], kind="ffn", config=config)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("calibrated", [False, True])
def test_shards_skip_zeros_by_default(calibrated: bool) -> None:
    w, x = arguments(mesh_of("4"), -2.0, 8192)  # a shard's own part is more than stays in the cache
    step = hire.transform(jax.jit(block), calibration=learned(w) if calibrated else None)
    np.testing.assert_allclose(step(w, x), jax.jit(block)(w, x), rtol=0, atol=2e-5)
    (decision,) = step.report().rewritten
    assert (decision.predictor, decision.shards) == ("Exact()", 4)
    assert ("by calibration on 64 rows" if calibrated else "not calibrated") in decision.reason
    (certificate,) = step.report().certificates
    assert certificate.proven == 2


@pytest.mark.slow
def test_a_common_path_over_shards_is_left_out_with_the_reason() -> None:
    w, x = arguments(mesh_of("4"), np.where(np.arange(WIDTH) % 16 == 3, 9.0, -2.0))
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=8), density=0.2)
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,)), calibration=learned(w))
    step(w, x)
    (decision,) = step.report().rewritten
    assert decision.common == 0
    assert decision.group == 1
    assert "no common path, each of the 4 shards would need one of its own" in decision.reason


@pytest.mark.slow
def test_a_recall_of_the_whole_block_is_shared_out_among_the_shards() -> None:
    w, x = arguments(mesh_of("4"), -1.6)
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=96, dtype="float32"), recall=0.6, group=1)
    config = hire.Config(rules=(rule,))
    calibration = learned(w, config)
    step = hire.transform(jax.jit(block), config, calibration=calibration)
    step(w, x)
    (decision,) = step.report().decisions
    (trial,) = calibration.trials.values()
    wanted = trial.enough(0.6, 2)
    assert wanted is not None
    assert decision.action == "rewritten", decision.reason
    assert wanted * WIDTH <= decision.candidates <= 1.5 * wanted * WIDTH  # with the slack of four shards
    assert decision.shard_recall > 0.99
