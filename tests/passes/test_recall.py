"""Recall budgets: what a predictor found on calibration rows decides how much is computed, or refuses the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.learned.trial import SHARES, Trial
from hire_compiler.offline.calibrate_export import load_calibration, save_calibration
from hire_compiler.runtime.ffn import select_groups
from hire_compiler.runtime.predictors import PREDICTOR_ARRAYS
from hire_compiler.runtime.target import target_for
from hire_compiler.runtime.topk import group_scores, top_groups
from tests.support.drawn import drawn
from tests.support.models import said
from tests.support.programs import rank_of

CPU = target_for("cpu")
D, WIDTH, LAYERS = 32, 256, 2
Params = dict[str, jax.Array]


def gated(w: Params, x: jax.Array) -> jax.Array:
    return (jax.nn.silu(x @ w["gate"] + w["bias"]) * (x @ w["up"])) @ w["down"]


def plain(w: Params, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["gate"] + w["bias"]) @ w["down"]


def scanned(w: Params, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (x + gated(w, x), None), x, w)[0]


def weights(layers: int | None = None, shift: float = 0.0) -> Params:
    rng = np.random.default_rng(0)
    stack = () if layers is None else (layers,)
    shapes = {"gate": (D, WIDTH), "up": (D, WIDTH), "down": (WIDTH, D)}
    w = {n: drawn(rng.normal(size=(*stack, *s)) / np.sqrt(s[0]), jnp.float32) for n, s in shapes.items()}
    return w | {"bias": drawn(rng.normal(size=(*stack, WIDTH)) + shift, jnp.float32)}


def inputs(seed: int, rows: int = 32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, D)), jnp.float32)


def rule(**fields: Any) -> hire.Rule:
    return hire.Rule(**{"kind": "ffn", "predictor": hire.LowRank(rank=16, dtype="float32"), "group": 1, **fields})


def learned(block: Any, w: Params, config: hire.Config | None, **more: Any) -> hire.Calibration:
    return hire.calibrate(block, [(w, inputs(s)) for s in range(2)], kind="ffn", config=config, **more)


def rewritten(block: Any, w: Params, made: hire.Rule, batch: int = 1, like: hire.Rule | None = None) -> Any:
    """The step, its only decision, and the report, calibrated with the same rule (or another)."""
    calibration = learned(block, w, hire.Config(rules=(like or made,)))
    step = hire.transform(jax.jit(block), hire.Config(rules=(made,)), calibration=calibration)
    x = inputs(9, batch)
    step(w, x)
    (decision,) = step.report().decisions
    return step, decision, calibration


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "score", "group", "batch"),
    [(gated, "max", 1, 1), (gated, "l2", 4, 4), (plain, "l2", 1, 1), (plain, "max", 4, 4)],
)
def test_a_trial_says_what_the_rewritten_step_does(block: Any, score: str, group: int, batch: int) -> None:
    """The same rows through the rewritten step: its own selection, its own output."""
    w, share = weights(shift=-2.5 if block is plain else 0.0), 0.25
    made = rule(density=share, group=group, score=score, common=0)
    step, decision, calibration = rewritten(block, w, made, batch)
    (activity,) = calibration.activities.values()
    rows = np.concatenate([inputs(0), inputs(1)]).reshape(batch, -1, D).swapaxes(0, 1)  # as the trial takes them
    (arrays,) = step.prepare(w, inputs(9, batch)).values()
    predictor = {name: array for name, array in arrays.items() if name in PREDICTOR_ARRAYS}
    found = wanted = 0
    missing, size = 0.0, 0.0
    for x in rows:
        h = np.asarray(jax.nn.relu(x @ w["gate"] + w["bias"]))
        if block is gated:
            h = np.asarray(jax.nn.silu(x @ w["gate"] + w["bias"]) * (x @ w["up"]))
        active = h != 0
        if activity.strongest is not None:
            active = np.abs(h) >= np.sort(np.abs(h), axis=1)[:, -26, None]  # a tenth, rounded up
        name = "silu" if block is gated else "relu"
        chosen = select_groups(jnp.asarray(x), predictor, w["bias"], rank_of(name), group, 64 // group, CPU, by=score)
        kept = np.zeros(WIDTH, bool)
        kept[(np.asarray(chosen)[:, None] * group + np.arange(group)).ravel()] = True
        found, wanted = found + (active & kept).sum(), wanted + active.sum()
        dense = np.asarray(block(w, jnp.asarray(x)))
        missing, size = missing + ((np.asarray(step(w, x)) - dense) ** 2).sum(), size + (dense**2).sum()
    assert decision.recall == pytest.approx(found / wanted, abs=0.004)
    assert decision.error == pytest.approx(np.sqrt(missing / size), rel=0.02)
    text = f"measured on calibration rows: recall {decision.recall:.2%}, output off by {decision.error:.2%}"
    assert text in said(step.report())
    assert decision.exactness.startswith("approximate")


@pytest.mark.slow
def test_a_recall_decides_how_many_neurons_are_computed() -> None:
    w = weights()
    some, more = (rewritten(gated, w, rule(recall=r))[1] for r in (0.5, 0.7))
    assert some.candidates < more.candidates < WIDTH
    for decision, wanted in ((some, 0.5), (more, 0.7)):
        assert decision.recall >= wanted
        assert f"{decision.candidates} neurons are enough for a recall of {wanted:.2%}" in decision.reason


@pytest.mark.slow
def test_the_worst_of_stacked_layers_decides() -> None:
    w = weights(LAYERS)
    w["gate"] = w["gate"].at[0].set(jnp.repeat(w["gate"][0][:, :8], WIDTH // 8, axis=1))  # of rank 8: found by rank 16
    _, decision, calibration = rewritten(scanned, w, rule(recall=0.6))
    (trial,) = calibration.trials.values()
    alone = rewritten(gated, {name: a[1] for name, a in w.items()}, rule(recall=0.6))[1]
    assert trial.rows == 64
    assert abs(decision.candidates - alone.candidates) <= WIDTH / 8


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"recall": 0.999}, {"recall": 0.999, "density": 0.25}])
def test_a_recall_that_is_not_reached_leaves_the_site_dense_with_the_numbers(fields: dict[str, Any]) -> None:
    made = rule(predictor=hire.LowRank(rank=1, dtype="float32"), **fields)
    step, decision, _ = rewritten(gated, weights(), made)
    assert decision.action == "dense"
    assert "not the 99.90% asked for" in decision.reason
    assert ("with 25.0% of the neurons" if "density" in fields else "even with 3/4 of the neurons") in decision.reason
    w, x = weights(), inputs(9, 1)
    np.testing.assert_array_equal(step(w, x), jax.jit(gated)(w, x))


@pytest.mark.slow
def test_a_recall_that_would_cost_more_than_dense_leaves_the_site_dense() -> None:
    _, decision, _ = rewritten(gated, weights(), rule(recall=0.95, predictor=hire.LowRank(rank=24, dtype="float32")))
    assert decision.action == "dense"
    assert "neurons for a recall of 95.00%, and gathered rows cost 2 times those of a stream" in decision.reason


def test_a_recall_that_nobody_measured_is_an_error() -> None:
    w = weights()
    with pytest.raises(hire.ConfigError, match=r"recall=0\.9 has to be measured.*LowRank\(rank=16.*config="):
        rewritten(gated, w, rule(recall=0.9), like=rule(density=0.1, predictor=hire.Quantized()))
    step = hire.transform(jax.jit(gated), hire.Config(rules=(rule(recall=0.9),)))
    with pytest.raises(hire.ConfigError, match=r"recall=0\.9 has to be measured"):
        step(w, inputs(9, 1))


@pytest.mark.slow
def test_rows_of_a_batch_need_more_together() -> None:
    w = weights(shift=-2.5)
    one, eight = (rewritten(plain, w, rule(recall=0.7), batch)[1] for batch in (1, 8))
    assert one.action == "rewritten"
    assert eight.action == "dense" or eight.candidates > one.candidates


@pytest.mark.slow
def test_a_batch_that_shares_nothing_is_left_dense() -> None:
    w = weights(shift=0.5)  # more than half of the neurons are active in every row
    made = rule(density=0.25)
    assert rewritten(plain, w, made)[1].action == "rewritten"
    _, decision, _ = rewritten(plain, w, made, batch=16)
    assert decision.action == "dense"
    assert "the 16 rows of a call touch" in decision.reason
    assert "sharing one choice does not pay" in decision.reason


@pytest.mark.slow
def test_a_batch_that_needs_more_than_is_computed_says_so() -> None:
    _, decision, _ = rewritten(plain, weights(shift=-2.5), rule(density=0.1), batch=4)
    assert decision.action == "rewritten"
    assert "of all neurons between them, more than the 10% computed" in decision.reason


def test_trials_survive_a_file(tmp_path: Path) -> None:
    config = hire.Config(rules=(rule(recall=0.7),))
    calibration = learned(gated, weights(), config)
    save_calibration(calibration, tmp_path / "learned.safetensors")
    read = load_calibration(tmp_path / "learned.safetensors")
    ((key, trial),) = calibration.trials.items()
    np.testing.assert_array_equal(read.trials[key].found, trial.found)
    assert read.trials[key].rows == trial.rows == 64


def test_a_trial_answers_with_what_was_tried() -> None:
    found = np.full((5, len(SHARES), 2), np.nan)
    found[0] = np.stack([np.linspace(0.5, 1, len(SHARES)), np.linspace(0.5, 0, len(SHARES))], axis=1)
    trial = Trial(found, 10)
    assert trial.at(0.001, 1) is None
    assert trial.at(0.25, 2) is None  # no batch of two was tried
    assert trial.at(0.3, 1) == trial.at(0.25, 1)
    assert trial.enough(0.5, 1) == SHARES[0]
    assert trial.enough(1.0, 1) == SHARES[-1]
    assert trial.enough(0.5, 16) is None
    assert trial.best(1) == 1.0


def test_l2_prefers_agreement_and_max_a_single_voice() -> None:
    scores = jnp.asarray([[3.0, -9.0, -9.0, -9.0, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1, 0.1, 0.1]])
    np.testing.assert_allclose(group_scores(scores, 4, "l2"), [3.0, 4.0, 0.2], atol=1e-6)
    np.testing.assert_allclose(group_scores(scores, 4), [3.0, 2.0, 0.1])
    assert top_groups(scores, 4, 1, "l2").tolist() == [1]
    assert top_groups(scores, 4, 1).tolist() == [0]
    both = jnp.concatenate([scores, scores[:, ::-1]])
    np.testing.assert_allclose(group_scores(both, 4, "l2") ** 2, [9.04, 32.0, 9.04], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rule(recall=0), r"recall is 0: give a share in \(0, 1\]"),
        (lambda: rule(recall=1.5), r"recall is 1\.5"),
        (lambda: rule(recall="high"), "recall is 'high'"),
        (lambda: rule(recall=float("nan")), "recall is nan"),
        (lambda: rule(recall=0.9, predictor=hire.Exact()), "this one loses nothing"),
        (lambda: rule(recall=0.9, predictor=hire.Quantized(), density=0.2, certify=True), "this one loses nothing"),
        (lambda: rule(density=0.1, score="mean"), "score is 'mean', must be 'max' or 'l2'"),
        (lambda: rule(), "exactly one of density"),
        (lambda: learned(gated, weights(), (rule(recall=0.9),)), r"config is a tuple: pass hire\.Config"),
    ],
)
def test_a_recall_or_score_without_meaning_is_refused(make: Any, message: str) -> None:
    with pytest.raises(hire.ConfigError, match=message):
        make()
