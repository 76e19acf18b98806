"""An artifact is adapted on real inputs: budgets that fit, what does not pay left dense, the same results."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.offline.adapt import adapt

D, WIDTH, CALLS = 1024, 2048, 6
SHAPES = {"down": (WIDTH, D), "up": (D, WIDTH)}


def block(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x + jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]


def layers(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, one: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        y = block(one, x)
        return y / jnp.sqrt(jnp.mean(y * y)), None

    return jax.lax.scan(layer, x, w)[0]


def weights(rng: np.random.Generator, active: float, stack: int = 0) -> dict[str, np.ndarray]:
    drawn = {n: rng.standard_normal(s, np.float32) / np.float32(s[0] ** 0.5) for n, s in SHAPES.items()}
    drawn |= {"bias": np.full(WIDTH, NormalDist().inv_cdf(active), np.float32)}
    return {n: np.stack([a] * stack) if stack else a for n, a in drawn.items()}


def model(function: Any, w: dict[str, np.ndarray]) -> jax.export.Exported:
    types = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in w.items()}
    return jax.export.export(jax.jit(function))(types, jax.ShapeDtypeStruct((1, D), jnp.float32))


def calls(rng: np.random.Generator, count: int = CALLS) -> list[dict[str, np.ndarray]]:
    return [{"x": rng.standard_normal((1, D), np.float32)} for _ in range(count)]


def decision(artifact: hire.Artifact) -> dict[str, Any]:
    (found,) = artifact.report()["cpu"]["decisions"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("function", "active", "share", "said"),
    [
        (block, 0.4, 0.42, "a budget of 25% held for 0 of 6 calls; 4"),
        (block, 0.6, 0.0, "was tried: a budget of 25% held for 0 of 6 calls, which cost more than it saved"),
        (block, 0.1, 0.25, ""),
        pytest.param(layers, 0.4, 0.42, "a budget of 25% held for 0 of 18 runs; 4", marks=pytest.mark.slow),
    ],
    ids=["more", "too many", "fits", "layers"],
)
def test_an_artifact_gets_the_budgets_that_its_calls_need(
    rng: np.random.Generator, tmp_path: Path, function: Any, active: float, share: float, said: str
) -> None:
    w = weights(rng, active, 3 if function is layers else 0)
    exported = model(function, w)
    path = hire.rewrite(exported, weights=w, platforms=("cpu",)).save(tmp_path / "model.hire")
    made, changed = adapt(hire.load(path), exported, calls(rng), weights=w)
    assert bool(changed) == bool(said)
    if changed:
        made.save(path, overwrite=True)
    loaded = hire.load(path)
    found = decision(loaded)
    assert said in (found["adapted"] or found["reason"])
    assert found["candidates"] / WIDTH == pytest.approx(share, abs=0.02)
    (x,) = calls(rng, 1)
    want = jax.jit(function)(w, x["x"])
    np.testing.assert_allclose(loaded(x["x"]), want, rtol=0, atol=1e-4 * float(jnp.abs(want).max()))
    again, more = adapt(loaded, exported, calls(rng, 2), weights=w)
    assert (again is loaded, more) == (True, {})


def test_rules_stay_and_without_inputs_or_weights_nothing_is_written(rng: np.random.Generator) -> None:
    w = weights(rng, 0.6)
    exported = model(block, w)
    ruled = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact()),))
    asked = hire.rewrite(exported, ruled, weights=w, platforms=("cpu",))
    assert adapt(asked, exported, calls(rng, 2), weights=w) == (asked, {})
    with pytest.raises(hire.ConfigError, match="inputs of some calls"):
        adapt(asked, exported, [], weights=w)
    with pytest.raises(hire.WeightError, match="give them"):
        adapt(asked, exported, calls(rng, 1))
    with pytest.raises(hire.ArtifactError, match="another model"):
        adapt(asked, model(layers, weights(rng, 0.6, 2)), calls(rng, 1), weights=w)


def test_the_command_writes_the_artifact_anew(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    w = weights(rng, 0.4)
    exported = model(block, w)
    (tmp_path / "model.jax_export").write_bytes(exported.serialize())
    save_file({f"w.{name}": array for name, array in w.items()}, tmp_path / "weights.safetensors")
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    for file, values in zip(files, calls(rng, 3), strict=True):
        np.savez(file, **values)
    path = tmp_path / "model.hire"
    hire.rewrite(exported, weights=w, platforms=("cpu",)).save(path)
    before = path.read_bytes()
    options = ["--original", str(tmp_path / "model.jax_export"), "--weights", str(tmp_path / "weights.safetensors")]
    options += ["--inputs", *map(str, files)]
    assert main(["adapt", str(path), *options, "-o", str(tmp_path / "new.hire"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["changed"]["ffn/0"]
    assert said.startswith("a budget of 25% held for 0 of 3 calls; 4")
    assert path.read_bytes() == before
    assert main(["adapt", str(path), *options]) == 0
    assert said in capsys.readouterr().out
    assert main(["report", str(path)]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["adapt", str(path), *options]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert main(["verify", str(path), *options]) == 0
