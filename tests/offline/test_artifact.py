"""Offline: what comes out runs without this package, and is the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.offline.verify import verify
from tests.support.exports import BATCH, FULL, dotted, exported, inputs, parameters, step
from tests.support.models import D
from tests.support.offline import same

DIRECTORY = """
from safetensors.flax import load_file
step = jax.export.deserialize(bytearray(open("model.folder/step.cpu.jax_export", "rb").read()))
weights = load_file("model.folder/weights.cpu.safetensors")
"""

FILE = """
import zipfile
from safetensors.flax import load
with zipfile.ZipFile("model.hire") as file:
    step = jax.export.deserialize(bytearray(file.read("step.cpu.jax_export")))
    weights = load(file.read("weights.cpu.safetensors"))
"""


@pytest.mark.parametrize(("name", "load"), [("model.folder", DIRECTORY), ("model.hire", FILE)])
def test_an_artifact_runs_where_this_package_is_not_installed(name: str, load: str, tmp_path: Path) -> None:
    artifact = hire.rewrite(exported(), FULL, weights=dotted(parameters()), platforms=("cpu",))
    saved = artifact.save(tmp_path / name)
    assert saved.is_file() is name.endswith(".hire")
    tokens, cache = inputs()
    np.savez(tmp_path / "inputs.npz", tokens=tokens, cache=cache)
    program = f"""
import sys; sys.modules["hire_compiler"] = None
import jax.export, numpy as np
{load}
given = np.load("inputs.npz")
out = step.call(weights, given["tokens"], given["cache"])
np.savez("outputs.npz", **out)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = dict(np.load(tmp_path / "outputs.npz"))
    same(out, step(parameters(), tokens, cache))
    loaded = hire.load(saved)
    plan = json.loads(loaded.blobs["plan.json"])
    assert [decision["action"] for decision in plan["cpu"]] == ["rewritten", "rewritten"]
    assert loaded.weights().keys() == artifact.manifest.platforms["cpu"].weights.keys()


def test_an_artifact_keeps_the_form_of_the_one_it_replaces(tmp_path: Path) -> None:
    artifact = hire.rewrite(exported(), FULL, weights=dotted(parameters()), platforms=("cpu",))
    for name in ("model.folder", "model.hire"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        artifact.save(tmp_path / name)
    (tmp_path / "model.hire").rename(tmp_path / "file")
    (tmp_path / "model.folder").rename(tmp_path / "folder.hire")
    for name, is_file in (("file", True), ("folder.hire", False)):
        with pytest.raises(hire.HireError, match="exists already"):
            artifact.save(tmp_path / name)
        artifact.save(tmp_path / name, overwrite=True)
        assert (tmp_path / name).is_file() is is_file
        same(hire.load(tmp_path / name)(*inputs()), step(parameters(), *inputs()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.hire"]


def test_a_donated_argument_may_be_donated_still() -> None:
    artifact = hire.rewrite(exported(), FULL, weights=dotted(parameters()), platforms=("cpu",))
    assert artifact.manifest.donate == (1,)
    tokens, cache = (jnp.asarray(a) for a in inputs())
    artifact(tokens, cache)
    assert cache.is_deleted()
    assert not tokens.is_deleted()


def test_layers_of_one_shape_share_one_prepare_program() -> None:
    def deep(params: Any, x: jax.Array) -> jax.Array:
        for up, down in params:
            x = x + jax.nn.relu(x @ up) @ down
        return x

    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((D, 64), np.float32), rng.standard_normal((64, D), np.float32)) for _ in range(3)]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), layers)
    one = jax.export.export(jax.jit(deep))(shapes, jax.ShapeDtypeStruct((1, D), jnp.float32))
    artifact = hire.rewrite(one, FULL, weights={"params": layers}, platforms=("cpu",))
    preparations = artifact.manifest.platforms["cpu"].preparations
    assert len(preparations) == 3
    assert len({preparation.program for preparation in preparations}) == 1
    x = rng.standard_normal((1, D), np.float32)
    np.testing.assert_allclose(artifact(x), deep(layers, x), rtol=1e-4, atol=1e-3)


def test_a_calibrated_rewrite_keeps_what_was_learned_as_tables_beside_the_programs(tmp_path: Path) -> None:
    wide = 256  # so that a moment is larger than what stays in a program

    def head(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(x @ w.T, axis=-1)

    rng = np.random.default_rng(0)
    w = rng.standard_normal((1024, wide), np.float32)
    batches = [(w, rng.standard_normal((8, wide), np.float32)) for _ in range(4)]
    calibration = hire.calibrate(head, batches)
    one = jax.export.export(jax.jit(head))(
        jax.ShapeDtypeStruct(w.shape, w.dtype), jax.ShapeDtypeStruct((2, wide), jnp.float32)
    )
    config = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.LowRank(rank=64), candidates=1024),))
    artifact = hire.rewrite(one, config, calibration=calibration, weights={"w": w}, platforms=("cpu",))
    (preparation,) = artifact.manifest.platforms["cpu"].preparations
    assert len(preparation.constants) == 1
    loaded = hire.load(artifact.save(tmp_path / "head.hire"))
    np.testing.assert_array_equal(loaded(batches[0][1][:2]), head(w, batches[0][1][:2]))


def test_verify_says_how_an_artifact_differs_from_its_original() -> None:
    def with_logits(params: Any, tokens: Any, cache: Any) -> Any:
        x = params["embed"][tokens] + cache[0]
        logits = x @ params["embed"].T
        return {"logits": logits, "token": jnp.argmax(logits, axis=-1)}

    one, named = exported(with_logits), dotted(parameters())
    rough = hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=64, tail="dropped")
    for config, exact in ((FULL, True), (hire.Config(rules=(rough,)), False)):
        artifact = hire.rewrite(one, config, weights={"embed": named["embed"]}, platforms=("cpu",))
        found = verify(artifact, one, weights={"embed": named["embed"]}, trials=8)
        (logits,) = [d for d in found.differences if d.name == "['logits']"]
        assert (found.max_error < 1e-5) is exact
        assert (logits.recall[1] == 1.0) is exact
        assert (found.token_agreement == 1.0) is exact
    assert 0 < logits.recall[64] < 1


@pytest.mark.slow
def test_verify_counts_certificates() -> None:
    named = dotted(parameters())

    def tokens_only(params: Any, tokens: Any, cache: Any) -> Any:
        return jnp.argmax((params["embed"][tokens] + cache[0]) @ params["embed"].T, axis=-1)

    artifact = hire.rewrite(exported(tokens_only), weights={"embed": named["embed"]}, platforms=("cpu",))
    found = verify(artifact, exported(tokens_only), weights={"embed": named["embed"]}, trials=3)
    ((rows, proven),) = found.certificates.values()
    assert rows == 3 * BATCH
    assert 0 <= proven <= rows
    assert found.token_agreement == 1.0


def test_verify_refuses_another_original() -> None:
    artifact = hire.rewrite(exported(), FULL, weights=dotted(parameters()), platforms=("cpu",))
    other = exported(lambda p, t, c: step(p, t, c)["token"])
    with pytest.raises(hire.ArtifactError, match="was rewritten from another model"):
        verify(artifact, other, weights=dotted(parameters()))
