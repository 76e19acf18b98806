"""What ``tune`` chose and saved is the same plan whoever takes it up: ``transform``, or the offline ``rewrite``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.passes.plan.saved_plan import Plan
from hire_compiler.tuning.settings import Family
from hire_compiler.tuning.tuned import Tried

D, M, N, ROWS = 64, 512, 2048, 64
PREDICTOR = hire.LowRank(32, dtype="int8")


def step(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A ReLU block, few of whose neurons are active, and a greedy head."""
    x = x + jax.nn.relu(x @ params["up"] - 1) @ params["down"]
    return jnp.argmax(x @ params["head"].T, axis=-1)


def parameters(rng: np.random.Generator) -> dict[str, np.ndarray]:
    sizes = {"up": (D, M), "down": (M, D), "head": (N, D)}
    return {name: (rng.standard_normal(size) / np.sqrt(D)).astype(np.float32) for name, size in sizes.items()}


@pytest.fixture
def only_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """One predictor is tried, and taken to be fast, so that what is chosen needs the calibration."""

    def fast(_site: Any, *given: Any, **_: Any) -> list[Tried]:
        settings: Sequence[Tried] = next(g for g in given if isinstance(g, list) and g and isinstance(g[0], Tried))
        return [replace(tried, ms=2.0 if tried.lossless else 1.0) for tried in settings]

    monkeypatch.setattr("hire_compiler.tuning.search.time_settings", fast)
    monkeypatch.setattr("hire_compiler.tuning.search.time_blocks", fast)
    monkeypatch.setattr("hire_compiler.tuning.search.families", lambda *_: {"LowRank": Family((PREDICTOR,))})
    monkeypatch.setattr("hire_compiler.tuning.search.predictors", lambda _: {"LowRank|0": PREDICTOR})


def inputs(rng: np.random.Generator) -> np.ndarray:
    """Rows of which a few directions hold most."""
    return (rng.standard_normal((ROWS, D)) * np.geomspace(2, 0.02, D)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("only_low_rank")
def test_saved_rules_are_the_same_plan_in_python_and_offline(rng: np.random.Generator, tmp_path: Path) -> None:
    arrays = parameters(rng)
    params = {name: jnp.asarray(array) for name, array in arrays.items()}
    x = jax.ShapeDtypeStruct((1, D), jnp.float32)
    batches = [(params, jnp.asarray(inputs(rng))) for _ in range(2)]
    tuned = hire.tune(jax.jit(step), params, jnp.zeros(x.shape), forward=step, batches=batches, recall=0.9)
    assert [(rule.path, rule.predictor) for rule in tuned.config.rules] == [
        ("^head/0$", PREDICTOR),
        ("^ffn/0$", PREDICTOR),
    ]

    rules = tuned.save(tmp_path / "rules.toml")
    read = hire.Tuned.load(rules)
    wanted = hire.transform(jax.jit(step), tuned.config, calibration=tuned.calibration).plan(params, x)
    replayed = hire.transform(jax.jit(step), read.config, calibration=read.calibration).plan(params, x)
    assert replayed.platforms["cpu"] == wanted.platforms["cpu"]
    assert [record.decision.action for record in wanted.platforms["cpu"]] == ["rewritten", "rewritten"]

    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    (tmp_path / "step.jax_export").write_bytes(jax.export.export(jax.jit(step))(shapes, x).serialize())
    np.savez(tmp_path / "weights.npz", **arrays)  # type: ignore[arg-type]
    given = {"weights": tmp_path / "weights.npz", "rules": rules, "calibration": rules.with_suffix(".safetensors")}
    options = [str(word) for name, path in given.items() for word in (f"--{name}", path)]
    made = tmp_path / "model"  # a folder
    assert main(["rewrite", str(tmp_path / "step.jax_export"), *options, "--platform", "cpu", "-o", str(made)]) == 0
    assert Plan.load(made / "plan.json").platforms["cpu"] == wanted.platforms["cpu"]
