"""``Rule(recall=…)`` of a head: calibration tries the predictor, the plan takes the fewest candidates that do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.learned.trial import COUNTS, TOPS, HeadTrial
from hire_compiler.offline.calibrate_export import load_calibration, save_calibration
from tests.support.drawn import drawn

D, N, ROWS = 32, 2048, 600
LOW = hire.LowRank(8)


def inputs(rng: np.random.Generator, count: int) -> jax.Array:
    return drawn(rng.standard_normal((count, D)) * np.geomspace(1, 0.05, D), jnp.float32)


def greedy(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ params["embed"].T, axis=-1)


def best_eight(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.lax.top_k(x @ params["embed"].T, 8)[1]


def configured(**rule: Any) -> hire.Config:
    return hire.Config(rules=(hire.Rule(kind="head", **{"predictor": LOW, "recall": 0.95} | rule),))


@pytest.fixture
def params(rng: np.random.Generator) -> dict[str, jax.Array]:
    return {"embed": drawn(rng.standard_normal((N, D)), jnp.float32)}


def learned(params: Any, rng: np.random.Generator, config: hire.Config) -> hire.Calibration:
    return hire.calibrate(greedy, [(params, inputs(rng, ROWS // 3)) for _ in range(3)], config=config)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "top"), [(greedy, 1), (best_eight, 8)])
def test_the_fewest_candidates_that_are_enough_are_taken(
    function: Any, top: int, params: dict[str, jax.Array], rng: np.random.Generator
) -> None:
    config = configured()
    calibration = learned(params, rng, config)
    (trial,) = calibration.head_trials.values()
    assert trial.rows == ROWS
    step = hire.transform(jax.jit(function), config, calibration=calibration)
    x = inputs(rng, 256)
    (decision,) = step.report(params, x[:1]).decisions
    assert decision.action == "rewritten"
    at = trial.found[TOPS.index(top)]
    assert decision.candidates == next(k for k, found in zip(COUNTS, at, strict=True) if found >= 0.95)
    assert f"{decision.candidates} candidates of {LOW} have a recall of" in decision.reason
    wanted, got = np.asarray(function(params, x)), np.concatenate([np.asarray(step(params, row[None])) for row in x])
    found = np.mean([np.isin(a, b).mean() for a, b in zip(wanted.reshape(256, -1), got.reshape(256, -1), strict=True)])
    assert found > 0.9


def test_a_recall_that_is_not_reached_leaves_the_head_dense(
    params: dict[str, jax.Array], rng: np.random.Generator
) -> None:
    calibration = learned(params, rng, configured())
    for rule in ({"candidates": 32}, {"density": 0.02, "recall": 0.99}):
        step = hire.transform(greedy, configured(**rule), calibration=calibration)
        (decision,) = step.report(params, inputs(rng, 1)).decisions
        assert decision.action == "dense"
        assert "asked for" in decision.reason


def test_a_recall_takes_rows_and_a_trial(params: dict[str, jax.Array], rng: np.random.Generator) -> None:
    calibration, x = learned(params, rng, configured()), inputs(rng, 1)
    (decision,) = hire.transform(greedy, configured(recall=0.999), calibration=calibration).report(params, x).decisions
    assert "measured on 600 rows, which cannot show 0.999: it takes 999" in decision.reason
    with pytest.raises(hire.ConfigError, match=r"did not try LowRank\(rank=9, bfloat16\)"):
        hire.transform(greedy, configured(predictor=hire.LowRank(9)), calibration=calibration).report(params, x)
    with pytest.raises(hire.ConfigError, match="recall is for predictors that approximate"):
        configured(predictor=hire.Quantized(8), certify=True)


def test_a_trial_is_saved(params: dict[str, jax.Array], rng: np.random.Generator, tmp_path: Path) -> None:
    calibration = learned(params, rng, configured())
    save_calibration(calibration, tmp_path / "learned.safetensors")
    read = load_calibration(tmp_path / "learned.safetensors")
    assert list(read.head_trials) == list(calibration.head_trials)
    for key, trial in calibration.head_trials.items():
        np.testing.assert_array_equal(read.head_trials[key].found, trial.found)
        assert read.head_trials[key].rows == trial.rows


def test_between_two_numbers_of_candidates_the_smaller_one_speaks() -> None:
    trial = HeadTrial(np.linspace(0, 1, len(TOPS) * len(COUNTS)).reshape(len(TOPS), -1), 100)
    assert trial.at(100, 1) == trial.found[0, 1]
    assert trial.at(31, 1) is None
    assert trial.at(64, 2) == trial.found[1, 1]
    assert trial.enough(2.0, 1) is None
    assert trial.enough(0.0, 64) == 128
