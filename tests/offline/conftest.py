"""Fixtures that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

import hire_compiler as hire
from tests.support.exports import CERTIFIED, write_all


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in every form, its weights, and an artifact."""
    folder = tmp_path_factory.mktemp("good")
    write_all(folder)
    model, weights = folder / "model.jax_export", folder / "weights.safetensors"
    hire.rewrite(model, CERTIFIED, weights=weights, platforms=("cpu",)).save(folder / "model.folder")
    hire.load(folder / "model.folder").with_weights(weights).save(folder / "model.hire")
    hire.rewrite(model, CERTIFIED, platforms=("cpu",)).save(folder / "bare.folder")
    return folder
