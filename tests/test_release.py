"""What a release consists of: a wheel that installs by itself, types for other checkers, versions that agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import hire_compiler as hire

ROOT = Path(hire.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {hire.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_oldest_jax_that_is_allowed_is_tested() -> None:
    oldest = next(d.partition(">=")[2] for d in PROJECT["dependencies"] if d.startswith("jax>="))
    assert f"jaxlib>={oldest}" in PROJECT["dependencies"]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert re.search(rf'^ +jax: \["{re.escape(oldest)}", "newest"\]', workflow, re.MULTILINE)


def test_every_python_that_is_named_is_tested() -> None:
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert (
        f"python: {str(named).replace(chr(39), chr(34))}" in (ROOT / ".github" / "workflows" / "test.yml").read_text()
    )


USER = """
import hire_compiler as hire

reveal_type(hire.Rule(kind="head", candidates=64))
rule = hire.Rule(kind="head", candidates=64, predictor=hire.Quantized(8))
step = hire.transform(lambda x: x, hire.Config(rules=(rule,)))
reveal_type(step.report().sites)
hire.Rule(kind="head", candidates="many")
"""


@pytest.mark.slow  # builds a wheel: half a minute, and an index of packages is asked for setuptools
def test_a_wheel_installs_and_carries_its_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    source = tmp_path / "source"  # a copy: what an earlier build left behind is no part of it
    shutil.copytree(ROOT / "hire_compiler", source / "hire_compiler", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Could not find a version" in done.stderr:
        pytest.skip("no index of packages was reached")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    own = venv.EnvBuilder(with_pip=False)
    own.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(packages)
    assert {"hire_compiler/py.typed", "hire_compiler/__init__.py"} <= set(names)
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "hire_compiler").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == ours
    python = str(tmp_path / "venv" / "bin" / "python")
    shown = subprocess.run(
        [python, "-I", "-c", "import hire_compiler; print(hire_compiler.__version__)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.stdout.strip() == hire.__version__, shown.stderr  # without JAX: it is asked for when it is needed
    (tmp_path / "user.py").write_text(USER)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", python, "--strict", "user.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "py.typed" not in checked.stdout, checked.stdout
    assert 'Revealed type is "hire_compiler.' in checked.stdout, checked.stdout
    assert re.search(r'"tuple\[hire_compiler\.[\w.]+\.Site, \.\.\.\]"', checked.stdout), checked.stdout
    assert checked.stdout.count(": error:") == 1, checked.stdout
    assert 'incompatible type "str"' in checked.stdout, checked.stdout
