"""Models of older versions are rewritten like any other; those of versions yet to come are refused by name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir.dialects import stablehlo

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.cli import main
from tests.support.exports import FULL, exported, inputs, parameters


def greedy(params: Any, tokens: jax.Array, cache: jax.Array) -> jax.Array:
    """Of operations that the oldest StableHLO has: no composite."""
    x = params["embed"][tokens] + cache[0]
    h = x + jax.nn.relu(x @ params["mlp"]["up"] + params["mlp"]["bias"]) @ params["mlp"]["down"]
    return jnp.argmax(h @ params["embed"].T, axis=-1)


OLDEST, NEWEST = stablehlo.get_minimum_version(), stablehlo.get_current_version()
VERSIONS = (OLDEST, "0.14.0", "0.17.0", "0.20.0", "1.0.0", "1.5.0", "1.9.0", NEWEST)


def artifact_of(version: str) -> bytes:
    with _mlir.fresh_context():
        module = _mlir.parse_portable(exported(greedy).mlir_module_serialized)
        return bytes(stablehlo.serialize_portable_artifact(module, version))


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_portable_artifact_of_an_older_version_is_rewritten(version: str, tmp_path: Path) -> None:
    path = tmp_path / "model.vhlo"
    path.write_bytes(artifact_of(version))
    assert f"StableHLO_v{version}".encode() in path.read_bytes()
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(parameters()))}
    artifact = hire.rewrite(path, FULL, weights=leaves, platforms=("cpu",))
    assert [d["action"] for d in artifact.report()["cpu"]["decisions"]] == ["rewritten", "rewritten"]
    (tokens,) = artifact(*inputs())
    np.testing.assert_array_equal(tokens, greedy(parameters(), *inputs()))


@pytest.mark.parametrize(
    "convention",
    range(
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version + 1,
    ),
)
def test_every_calling_convention_of_jax_export_is_read(convention: int, tmp_path: Path) -> None:
    before = jax.config.jax_export_calling_convention_version
    jax.config.update("jax_export_calling_convention_version", convention)
    try:
        one = exported(greedy)
    finally:
        jax.config.update("jax_export_calling_convention_version", before)
    assert one.calling_convention_version == convention
    path = tmp_path / "model.jax_export"
    path.write_bytes(one.serialize())
    artifact = hire.rewrite(path, FULL, weights={"params": parameters()}, platforms=("cpu",))
    np.testing.assert_array_equal(artifact(*inputs()), greedy(parameters(), *inputs()))


def restamped(module: bytes, version: bytes) -> bytes:
    """The module with another version in its header, of the same length."""
    own = re.match(rb"ML\xefR.StableHLO_v([\d.]+)\0", module, re.DOTALL)
    assert own is not None
    assert len(version) == len(own[1])
    return module[: own.start(1)] + version + module[own.end(1) :]


def test_versions_that_this_jax_does_not_know_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = exported(greedy)
    convention = jax.export.maximum_supported_calling_convention_version
    newer = restamped(one.mlir_module_serialized, b"9.15.0")
    cases = {
        "a.vhlo": (newer, f"written in StableHLO 9.15.0, and this jaxlib reads up to {NEWEST}"),
        "b.vhlo": (
            restamped(artifact_of(OLDEST), b"0.8.0"),
            f"in StableHLO 0.8.0, and this jaxlib reads from {OLDEST}",
        ),
        "c.jax_export": (
            dataclasses.replace(one, mlir_module_serialized=newer).serialize(),
            f"written in StableHLO 9.15.0, and this jaxlib reads up to {NEWEST}",
        ),
        "d.jax_export": (
            dataclasses.replace(one, calling_convention_version=convention + 1).serialize(),
            f"exported with calling convention {convention + 1}, and jax {jax.__version__} knows",
        ),
        "e.jax_export": (
            dataclasses.replace(one, calling_convention_version=5).serialize(),
            "exported with calling convention 5",
        ),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        for verb in (["inspect"], ["rewrite", "-o", str(tmp_path / "out.hire")]):
            assert main([*verb, str(tmp_path / name)]) == 2
            err = capsys.readouterr().err
            assert expected in err, err
            assert name in err
            assert len(err.splitlines()) == 1
    assert not (tmp_path / "out.hire").exists()
