"""What the tests of bad files and flags share: bad cases, and how a command must refuse them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hire_compiler.cli import main


def snapshot(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], folder: Path) -> str:
    """Run a command that must fail: its one line."""
    before = snapshot(folder)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    out, err = capfd.readouterr()
    shown = f"{arguments}\n{out[-400:]}\n{err[-2000:]}"
    assert code == 2, shown
    assert not out, shown
    assert len(err.strip().splitlines()) == 1, shown
    assert err.startswith("hire-compiler: "), shown
    assert "Traceback" not in err, shown
    assert snapshot(folder) == before, shown
    return err


ARTIFACT_FILES = (
    "manifest.json",
    "step.cpu.jax_export",
    "check.cpu.jax_export",
    "weights.cpu.safetensors",
    "prepare",
    "plan.json",
    "report.json",
)

FILE_SEEDS = range(4)

# What a flipped byte leaves may still be a model: then nothing has to fail, but nothing may crash either.
MODELS = ("model.jax_export", "model.vhlo", "model.mlir")
