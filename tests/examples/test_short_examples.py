"""The two shortest examples run as they stand, are short, and use nothing but the public names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", ["quickstart", "sharded"])
def test_it_runs(name: str) -> None:
    """Its own assertions compare every token with the dense program's."""
    command = [sys.executable, "-m", f"examples.{name}"]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "on, 1 of 1 site rewritten" in done.stdout
    assert "certified" in done.stdout


@pytest.mark.parametrize("name", ["quickstart", "sharded"])
def test_it_is_short(name: str) -> None:
    code = [line for line in (EXAMPLES / f"{name}.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 30


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_no_example_imports_internals(path: Path) -> None:
    assert re.findall(r"^\s*(?:from|import) hire_compiler\..*", path.read_text(), re.MULTILINE) == []
