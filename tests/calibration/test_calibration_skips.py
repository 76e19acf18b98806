"""What a calibration could not look at is said: when it runs, in what it keeps, and in the report of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.offline.calibrate_export import load_calibration, save_calibration
from tests.support.drawn import drawn

D, WIDTH, ROWS = 8, 32, 256
BRANCH = "it stands in a branch, which calibration does not enter"


def weights(rng: np.random.Generator) -> dict[str, jax.Array]:
    shapes = {"up": (D, WIDTH), "down": (WIDTH, D), "up2": (D, WIDTH), "down2": (WIDTH, D)}
    return {name: drawn(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def block(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return x + jax.nn.relu(jnp.sin(x) @ up) @ down


def in_a_branch(w: dict[str, jax.Array], x: jax.Array, wanted: Any) -> jax.Array:
    x = block(x, w["up"], w["down"])
    return jax.lax.cond(wanted, lambda x: block(x, w["up2"], w["down2"]), lambda x: x, x)


def everywhere(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return block(block(x, w["up"], w["down"]), w["up2"], w["down2"])


@pytest.mark.slow
def test_what_stands_in_a_branch_is_warned_of_kept_and_reported(rng: np.random.Generator, tmp_path: Path) -> None:
    w, x = weights(rng), drawn(rng.normal(size=(ROWS, D)), jnp.float32)
    with pytest.warns(hire.HireWarning, match=r"w\['up2'\].* was not looked at: it stands in a branch"):
        learned = hire.calibrate(in_a_branch, [(w, x, True)])
    assert f"w['up2'][{D}] not looked at, {BRANCH}" in str(learned)
    save_calibration(learned, tmp_path / "learned")
    kept = load_calibration(tmp_path / "learned")
    assert kept.skipped == learned.skipped
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=2), density=0.25)
    step = hire.transform(jax.jit(in_a_branch), hire.Config(rules=(rule,)), calibration=kept)
    report = step.report(w, x[:1], True)
    assert any(BRANCH in note and note.startswith("ffn/1") for note in report.notes)
    assert not any(BRANCH in note and note.startswith("ffn/0") for note in report.notes)


@pytest.mark.slow
def test_another_program_may_show_it(rng: np.random.Generator) -> None:
    w, x = weights(rng), drawn(rng.normal(size=(ROWS, D)), jnp.float32)

    def either(w: dict[str, jax.Array], x: jax.Array, wanted: Any = None) -> jax.Array:
        return everywhere(w, x) if wanted is None else in_a_branch(w, x, wanted)

    learned = hire.calibrate(either, [(w, x, True), (w, x)])
    assert not learned.skipped
    assert f"w['up2'][{D}]" in learned.moments


def test_where_nothing_else_is_found_the_reason_is_told(rng: np.random.Generator) -> None:
    def only(w: dict[str, jax.Array], x: jax.Array, wanted: Any) -> jax.Array:
        return jax.lax.cond(wanted, lambda x: block(x, w["up"], w["down"]), lambda x: x, x)

    w, x = weights(rng), drawn(rng.normal(size=(ROWS, D)), jnp.float32)
    with pytest.raises(hire.CaptureError, match=f"no site to calibrate.*{BRANCH}"):
        hire.calibrate(only, [(w, x, True)])
