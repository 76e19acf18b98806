"""A kept plan is carried out as it was; one that does not fit is refused, and nothing in it is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.exports import exported

D, WIDTH, ROWS = 16, 128, 64

Weights = dict[str, jax.Array]


def step(w: Weights, x: jax.Array) -> jax.Array:
    h = x + jax.nn.relu(x @ w["up"] - 1.0) @ w["down"]
    return jnp.argmax(h @ w["head"], axis=-1)


def logits(w: Weights, x: jax.Array) -> jax.Array:
    return (x + jax.nn.relu(x @ w["up"] - 1.0) @ w["down"]) @ w["head"]


def given(rng: np.random.Generator, rows: int = 1, width: int = WIDTH) -> tuple[Weights, jax.Array]:
    shapes = {"up": (D, width), "down": (width, D), "head": (D, 2048)}
    w = {name: drawn(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    return w, drawn(rng.normal(size=(rows, D)), jnp.float32)


BLOCK = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), recall=0.9)
RULES: dict[str, Any] = {
    "recall and a common path": (replace(BLOCK, recall=None, density=0.5, common=16, group=4),),
    "cascade": (
        hire.Rule(
            kind="head", predictor=hire.Cascade(hire.LowRank(2), hire.Quantized(8), survivors=256), candidates=64
        ),
    ),
    "int4": (hire.Rule(kind="ffn", predictor=hire.Quantized(4, columns=8), density=0.25, score="l2"),),
    "exact with room by calibration": (hire.Rule(kind="ffn", predictor=hire.Exact()),),
    "certified, strict": (hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64, certify="strict"),),
    "the default": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_plan_comes_back_from_its_file_and_is_carried_out_again(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    w, x = given(rng)
    learned = hire.calibrate(step, [given(rng, ROWS) for _ in range(8)])
    first = hire.transform(jax.jit(step), hire.Config(rules=RULES[name]), calibration=learned)
    plan = first.plan(w, x)
    plan.save(tmp_path / "plan.json")
    kept = hire.Plan.load(tmp_path / "plan.json")
    assert kept == plan
    again = hire.transform(jax.jit(step), hire.Config(plan=kept), calibration=learned)
    np.testing.assert_array_equal(again(w, x), first(w, x))
    assert again.report().decisions == first.report().decisions
    assert again.plan(w, x) == plan
    assert again.prepare(w, x).keys() == first.prepare(w, x).keys()
    assert any("carried out again" in note for note in again.report().notes)


@pytest.mark.slow
def test_what_calibration_decided_needs_no_calibration_again(rng: np.random.Generator) -> None:
    """Budgets of a skip are numbers; the factors of ``LowRank`` are made with the moments."""
    w, x = given(rng)
    learned = hire.calibrate(step, [given(rng, ROWS) for _ in range(8)])
    exact = hire.transform(step, hire.Config(rules=RULES["exact with room by calibration"]), calibration=learned)
    alone = hire.transform(step, hire.Config(plan=exact.plan(w, x)))
    assert alone.report(w, x).decisions == exact.report(w, x).decisions
    factors = hire.transform(step, hire.Config(rules=(replace(BLOCK, recall=None, density=0.5),)), calibration=learned)
    with pytest.raises(hire.ConfigError, match=r"the plan of ffn/0 is prepared with a calibration \(.*moment"):
        hire.transform(step, hire.Config(plan=factors.plan(w, x))).report(w, x)


def test_a_plan_of_something_else_is_refused(rng: np.random.Generator) -> None:
    w, x = given(rng)
    plan = hire.transform(step).plan(w, x)

    def refused(function: Any, args: Any, why: str, **more: Any) -> None:
        with pytest.raises(hire.ConfigError, match=why):
            hire.transform(function, hire.Config(plan=plan), **more).report(*args)

    refused(step, given(rng, width=256), "the plan of ffn/0 does not fit: its width was 128 and is 256 here")
    refused(step, given(rng, rows=2), "its batch was 1 and is 2 here")
    refused(lambda w, x: x @ w["head"], (w, x), "the plan has 2 sites and the program 1")
    refused(step, (w, x), "the plan is for cpu, not for tpu", platform="tpu")
    refused(logits, (w, x), r"certify='strict' is impossible")
    with pytest.raises(hire.ConfigError, match="rules and a plan"):
        hire.Config(plan=plan, rules=(BLOCK,))
    with pytest.raises(hire.ConfigError, match=r"Config\.plan is 3"):
        hire.transform(step, hire.Config(plan=3)).report(w, x)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"certify": True, "predictor": {"type": "LowRank", "rank": 4}}, "certify needs"),
        ({"candidates": 4096}, "more than the 2048 rows"),
        ({"predictor": {"type": "Quantized", "bits": 4, "columns": 7}, "certify": False}, "do not divide"),
        ({"predictor": {"type": "Oracle"}}, "with one of"),
        ({"spread": 3, "group": 5}, "does not divide"),
    ],
)
def test_a_plan_that_was_edited_is_believed_in_nothing(
    change: dict[str, Any], why: str, rng: np.random.Generator
) -> None:
    w, x = given(rng)
    content = json.loads(hire.transform(step).plan(w, x).to_json())
    head = next(entry for entry in content["cpu"] if entry["site"] == "head/0")
    head["again"]["rule"] |= change
    with pytest.raises(hire.ConfigError, match=why):
        hire.transform(step, hire.Config(plan=hire.Plan.from_json(json.dumps(content)))).report(w, x)


@pytest.mark.parametrize("text", ["", "[]", "{}x", '{"cpu": [{"site": "ffn/0"}]}', '{"cpu": 3}', "\x00"])
def test_what_is_no_plan_says_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(hire.ConfigError, match=r"plan\.json: no plan that can be carried out again"):
        hire.Plan.load(tmp_path / "plan.json")


def test_a_plan_prints_a_line_a_site(rng: np.random.Generator) -> None:
    text = str(hire.transform(step).plan(*given(rng)))
    assert "head/0" in text
    assert "certify=strict" in text
    assert len(text.splitlines()) == 2


def test_the_plan_of_an_artifact_makes_the_same_artifact(rng: np.random.Generator) -> None:
    first = hire.rewrite(exported(), platforms=("cpu",))
    plan = hire.Plan.from_json(first.blobs["plan.json"])
    again = hire.rewrite(exported(), hire.Config(plan=plan), platforms=("cpu",))
    assert any(record.rule for record in plan.platforms["cpu"])
    assert again.manifest.platforms["cpu"].preparations == first.manifest.platforms["cpu"].preparations
    assert again.blobs["plan.json"] == first.blobs["plan.json"]
