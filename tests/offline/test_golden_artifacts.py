"""Artifacts that earlier releases wrote load, prepare and run in this one; their portable forms alone do too."""

from __future__ import annotations

import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.golden_artifacts import FOLDER, KINDS

ARTIFACTS = sorted(FOLDER.glob("*/*.hire"))


def check(artifact: hire.Artifact, path: Path) -> None:
    """What it returns now is what it returned when it was written: integers are equal, floats up to rounding."""
    with np.load(path.with_suffix(".npz")) as kept:
        found = jax.tree.leaves(artifact(kept["x"]))
        assert found
        for i, leaf in enumerate(found):
            wanted = kept[f"result{i}"]
            assert leaf.dtype == wanted.dtype
            np.testing.assert_allclose(leaf, wanted, rtol=0 if wanted.dtype.kind == "i" else 1e-5, atol=1e-5)


def weights_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_suffix(".npz")) as kept:
        return {name: kept[name] for name in kept.files if name.startswith("w.")}


def test_this_release_has_its_artifacts() -> None:
    """Make them with ``python -m tests.support.golden_artifacts``."""
    assert {path.stem for path in (FOLDER / hire.__version__).glob("*.hire")} == set(KINDS)


@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_artifact_of_a_release_runs(path: Path) -> None:
    artifact = hire.load(path)
    check(artifact, path)
    check(artifact.with_weights(weights_of(path)), path)
    assert artifact.report()["cpu"]["decisions"]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_its_portable_form_alone_is_enough(path: Path, tmp_path: Path) -> None:
    artifact = hire.load(path)
    artifact.blobs |= {name: b"refused by a JAX to come" for name in artifact.blobs if name.endswith(".jax_export")}
    with pytest.warns(hire.HireWarning, match="its portable form is used"):
        check(artifact, path)
    hire.load(path).upgrade(tmp_path / "renewed.hire")
    with warnings.catch_warnings():
        warnings.simplefilter("error", hire.HireWarning)
        renewed = hire.load(tmp_path / "renewed.hire")
        check(renewed, path)
        check(renewed.with_weights(weights_of(path)), path)
