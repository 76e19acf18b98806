"""Imports point downward, JAX's private names stay in one file, and importing costs little."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hire_compiler

ROOT = Path(hire_compiler.__file__).parent
NAME = "hire_compiler"

# The house, from the ground up. A module may import from its own room and from rooms on lower floors; the longest
# prefix says in which room it is.
HOUSE = (
    ("errors", "version", "reports"),
    ("_mlir", "files", "comparison", "measuring.hlo"),
    ("config", "authors", "capture"),
    ("graph",),
    ("patterns.operations", "runtime", "sharding"),
    ("patterns.weights", "proofs", "learned", "passes.normalize", "passes.verify", "offline.disk"),
    ("patterns.region", "passes.plan"),
    ("tails", "patterns", "patterns.misses"),
    ("patterns.ffn", "patterns.head", "patterns.experts"),
    ("passes.replace",),
    ("passes.kinds", "passes.splice", "passes.forms"),
    ("passes.detect",),
    ("passes.mesh",),
    ("passes", "offline.source"),
    ("calibration", "calling"),
    ("offline.artifact", "api"),
    ("offline", "measuring"),
    ("tuning",),
    ("pictures",),
    ("",),  # the door
    ("cli",),
    ("__main__",),
)
FLOORS = {room: number for number, floor in enumerate(HOUSE) for room in floor}
RUNTIME_MAY_IMPORT = (
    "runtime", "graph.expression", "graph.weight", "graph.parts", "graph.storage", "graph.narrow", "errors",
)  # fmt: skip
IR = ("_mlir", "graph.graph", "patterns", "capture.program")


def _modules() -> dict[str, Path]:
    """Every module by its name below the package ('' is the package itself)."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function, with its full dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import; write the full name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _short(submodule) in MODULES else str(node.module)


def _short(name: str) -> str | None:
    """The name below the package, or None for a module of somebody else."""
    return name.removeprefix(NAME).removeprefix(".") if name == NAME or name.startswith(f"{NAME}.") else None


def _own_imports(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    return {short for name in _imports(MODULES[module]) if (short := _short(name)) is not None}


def _room(module: str) -> str:
    """The room of a module: the longest prefix that is one."""
    room = module
    while room not in FLOORS:
        room = room.rpartition(".")[0]
    assert room or not module, f"{module}: say in HOUSE of tests/test_imports.py on which floor its room is"
    return room


def _below(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_stands_in_a_room(module: str) -> None:
    folder = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    assert _room(module) in (folder, module), f"{folder}: say in HOUSE of tests/test_imports.py on which floor it is"


def test_every_room_of_the_house_is_there() -> None:
    assert [room for room in FLOORS if room not in MODULES] == []


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_from_lower_floors_only(module: str) -> None:
    room = _room(module)
    strange = {other for other in _own_imports(module) if _room(other) != room and FLOORS[_room(other)] >= FLOORS[room]}
    assert not strange, f"{module} (floor {FLOORS[room]}) imports {', '.join(strange)}, which is not below its room"


def test_no_two_modules_import_each_other() -> None:
    try:
        TopologicalSorter({module: _own_imports(module) - {module} for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' → '.join(map(str, error.args[1]))}")


@pytest.mark.parametrize("module", [name for name in MODULES if _below(name, ("runtime",))])
def test_the_runtime_runs_alone(module: str) -> None:
    strange = {other for other in _own_imports(module) if not _below(other, RUNTIME_MAY_IMPORT)}
    assert not strange, f"{module} imports {', '.join(strange)}: the runtime must run without the compiler"


def test_the_plan_holds_no_ir() -> None:
    seen, queue = set(), [module for module in MODULES if _below(module, ("passes.plan",))]
    while queue:
        module = queue.pop()
        if module not in seen:
            seen.add(module)
            queue += _own_imports(module)
    assert not [module for module in seen if _below(module, IR)]
    assert seen >= {"config.rules", "reports.report"}


@pytest.mark.parametrize("module", [name for name in MODULES if not _below(name, ("_mlir",))])
def test_only_one_package_knows_jaxlib_and_private_names(module: str) -> None:
    private = [
        name
        for name in _imports(MODULES[module])
        if re.match(r"jaxlib(\.|$)", name) or re.search(r"(^|\.)_src(\.|$)", name)
    ]
    assert not private, f"{module} imports {private}: put what it needs into _mlir"
    code = re.sub(r'""".*?"""|#[^\n]*', "", MODULES[module].read_text(), flags=re.DOTALL)
    assert "jax._src" not in code
    assert not re.search(r"\bjaxlib\.", code)


def test_that_one_package_is_where_they_are() -> None:
    assert any(name.startswith("jaxlib") for name in _imports(MODULES["_mlir"]))


# --------------------------------------------------------------------------- the cost of an import


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plan_of_the_house_shows_every_room() -> None:
    page = (ROOT.parent / "docs" / "house.md").read_text()
    for room in FLOORS:
        if (path := MODULES[room]).name == "__init__.py" and room:
            says = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
            assert f"| `{room.replace('.', '/')}` | {says.replace('``', '`')} |" in page


def test_importing_adds_less_than_300_ms_to_importing_jax() -> None:
    code = "import jax, time; start = time.process_time(); import hire_compiler; print(time.process_time() - start)"
    best = float("inf")
    for _ in range(6):  # other work on the machine may slow any one of them
        best = min(best, float(_python(code)))
        if best < 0.3:
            return
    pytest.fail(f"import hire_compiler took {best:.2f} s beyond import jax")


def test_importing_starts_no_backend() -> None:
    code = "import hire_compiler; hire_compiler.Config(rules=()); print('imported')"
    assert _python(code, JAX_PLATFORMS="no_such_platform").strip() == "imported"


def test_importing_neither_prints_nor_warns() -> None:
    assert _python("import warnings; warnings.simplefilter('error'); import jax; import hire_compiler") == ""
