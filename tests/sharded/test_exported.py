"""Exports over several devices: rewritten where no such devices are, run by plain JAX where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from safetensors.numpy import save_file

import hire_compiler as hire
from hire_compiler.measuring.hlo.communication import collectives
from hire_compiler.measuring.hlo.text import read_hlo
from hire_compiler.offline.verify import verify
from tests.sharded.programs import MESHES, P

D, WIDTH, VOCABULARY, BATCH = 64, 512, 4096, 4
FULL = hire.Config(
    rules=(
        hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), density=1.0),
        hire.Rule(kind="head", predictor=hire.Quantized(bits=8), density=1.0),
    )
)
NARROW = hire.Config(
    rules=(
        hire.Rule(kind="ffn", predictor=hire.LowRank(rank=8), density=0.1),
        hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify=True),
    )
)
DEVICES = {name: int(np.prod(sizes)) for name, (sizes, _) in MESHES.items()}


def step(params: dict[str, Any], x: jax.Array) -> dict[str, jax.Array]:
    h = x + jax.nn.relu(x @ params["up"] + params["bias"]) @ params["down"]
    values, ids = jax.lax.top_k(h @ params["embed"].T, 8)
    return {"token": ids[:, 0], "best": values, "h": h}


def parameters(dtype: Any = jnp.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"up": (D, WIDTH), "bias": (WIDTH,), "down": (WIDTH, D), "embed": (VOCABULARY, D)}
    return {name: (rng.standard_normal(shape) / 8).astype(dtype) for name, shape in shapes.items()}


def inputs(dtype: Any = jnp.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((BATCH, D)).astype(dtype)


def exported(mesh: str, dtype: Any = jnp.float32, *, platforms: Any = ("cpu",), **options: Any) -> Any:
    """For a mesh of that shape; no device is needed."""
    sizes, names = MESHES[mesh]
    abstract = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
    split = {"up": (None, "model"), "bias": ("model",), "down": ("model", None), "embed": ("model", None)}

    def struct(array: np.ndarray, *spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(abstract, P(*spec)))

    params = {name: struct(array, *split[name]) for name, array in parameters(dtype).items()}
    x = struct(inputs(dtype), "data" if "data" in names else None)
    return jax.export.export(jax.jit(step, **options), platforms=platforms)(params, x)


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        one, other = (np.asarray(a, np.float32) for a in (one, other))
        assert np.abs(one - other).max() <= tolerance * max(1.0, np.abs(other).max())


PLAIN_JAX = """
import sys
sys.modules["hire_compiler"] = None  # what follows needs jax, flatbuffers and safetensors alone
import json, jax, jax.export, numpy as np
from safetensors.numpy import load_file

folder, inputs, results = sys.argv[1:]
axes = json.load(open(f"{folder}/manifest.json"))["mesh"]
mesh = jax.sharding.Mesh(np.reshape(jax.devices(), tuple(axes.values())), tuple(axes))
step = jax.export.deserialize(bytearray(open(f"{folder}/step.cpu.jax_export", "rb").read()))
(weights, *args), _ = jax.tree.unflatten(step.in_tree, step.in_shardings_jax(mesh))
weights = jax.device_put(load_file(f"{folder}/weights.cpu.safetensors"), weights)
found = jax.jit(step.call)(weights, *jax.device_put([np.load(inputs)], args))
np.savez(results, **found)
assert all(len(array.sharding.device_set) == mesh.size for array in jax.tree.leaves((weights, found)))
"""


def in_plain_jax(folder: Path, devices: int, tmp_path: Path) -> dict[str, np.ndarray]:
    np.save(tmp_path / "x.npy", inputs())
    flags = f"--xla_force_host_platform_device_count={devices}"
    subprocess.run(
        [sys.executable, "-c", PLAIN_JAX, str(folder), str(tmp_path / "x.npy"), str(tmp_path / "found.npz")],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
    )
    return dict(np.load(tmp_path / "found.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4", "2x4"])
def test_an_artifact_of_several_devices_runs_in_plain_jax(mesh: str, tmp_path: Path) -> None:
    artifact = hire.rewrite(exported(mesh), FULL, weights={"params": parameters()}, platforms=("cpu",))
    decisions = artifact.report()["cpu"]["decisions"]
    assert [d["shards"] for d in decisions] == [4, 4]
    folder = artifact.save(tmp_path / "model")
    found = in_plain_jax(folder, DEVICES[mesh], tmp_path)
    close(found, step(parameters(), inputs()))
    assert np.array_equal(found["token"], step(parameters(), inputs())["token"])
    loaded = hire.load(folder)
    close(loaded(inputs()), step(parameters(), inputs()))
    assert {len(a.sharding.device_set) for a in loaded.weights().values()} == {DEVICES[mesh]}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [("8", jnp.bfloat16), ("2x2", jnp.float32), pytest.param("4", jnp.bfloat16, marks=pytest.mark.slow)],
)
def test_a_rewritten_export_over_devices_equals_its_original(mesh: str, dtype: Any, tmp_path: Path) -> None:
    original, weights = exported(mesh, dtype, platforms=("cpu", "tpu")), {"params": parameters(dtype)}
    artifact = hire.rewrite(original, FULL, weights=weights)
    assert list(artifact.manifest.platforms) == ["cpu", "tpu"]
    assert artifact.step_program("tpu").nr_devices == DEVICES[mesh]
    found = verify(artifact, original, weights=weights, trials=2)
    assert found.max_error < (2e-5 if dtype == jnp.float32 else 3e-2)
    if dtype == jnp.float32:
        assert found.token_agreement == 1.0


def test_shards_of_an_exported_step_exchange_winners_only() -> None:
    calibration = hire.calibrate(step, [(parameters(), inputs())])
    artifact = hire.rewrite(
        exported("2x4"), NARROW, calibration=calibration, weights={"params": parameters()}, platforms=("cpu",)
    )
    weights, program = artifact.weights(), artifact.step_program()
    found = jax.jit(program.call)(weights, inputs())
    wanted = step(parameters(), inputs())
    assert np.abs(np.asarray(found["h"]) - wanted["h"]).max() > 0  # narrow, so not the same
    text = jax.jit(program.call).lower(weights, jnp.asarray(inputs())).compile().as_text()
    moved = [c.result_bytes for c in collectives(read_hlo(text), 8)]
    assert max(moved) <= BATCH * D * 4  # the sum of a block; never scores (4096 a row) or rows
    for array in weights.values():
        assert max(s.data.nbytes for s in array.addressable_shards) == array.nbytes // 4
    assert artifact(inputs())["token"].shape == (BATCH,)


def test_out_shardings_of_the_author_are_kept(tmp_path: Path) -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    out = {"token": NamedSharding(mesh, P()), "best": NamedSharding(mesh, P("data")), "h": None}
    artifact = hire.rewrite(exported("2x4", out_shardings=out), FULL, weights={"params": parameters()})
    assert artifact(inputs())["best"].sharding.is_equivalent_to(out["best"], 2)
    assert artifact(inputs())["token"].sharding.is_fully_replicated


def test_nothing_rewritten_is_the_original(tmp_path: Path) -> None:
    artifact = hire.rewrite(exported("4"), hire.Config(exact=False), weights={"params": parameters()})
    assert not [d for d in artifact.report()["cpu"]["decisions"] if d["action"] == "rewritten"]
    close(artifact(inputs()), step(parameters(), inputs()))


def test_with_too_few_devices_it_is_written_and_read_but_not_run(tmp_path: Path) -> None:
    artifact = hire.rewrite(exported("8"), FULL, platforms=("cpu",))
    folder = artifact.save(tmp_path / "model")
    save_file(parameters(), tmp_path / "weights.safetensors")
    for verb in (["report", str(folder)], ["prepare", str(folder), "--weights", str(tmp_path / "weights.safetensors")]):
        done = subprocess.run(
            [sys.executable, "-m", "hire_compiler", *verb],
            env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (0 if verb[0] == "report" else 2), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "was exported for 8 devices (mesh model=8), and here are 4 cpu devices" in lines[0]
    assert not list(folder.glob("weights*"))  # nothing half-written
