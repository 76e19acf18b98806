"""The golden harness: one file is one complete little story of one pass.

::

    // What this file shows, in a sentence or two.

    // ===== input
    func.func @main(…) …            hand-written StableHLO

    // ===== config                 (splice only) a hire.Config as Python
    // ===== report                 what the pass says
    // ===== output                 (normalize, splice) the module afterwards; of what jax.numpy itself lowers
                                    to, the heads only

The folder names the pass, which decides the sections. Report and output are compared whole, and rewritten by
``pytest --update-golden``. A section that is missing, empty, repeated, or of no use to the pass is an error,
so that no file can silently test less than it seems to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.passes.normalize import normalize
from hire_compiler.passes.pipeline import inspect_program, rewrite_program
from hire_compiler.program import Program, read_module

FOLDER = Path(__file__).parent / "golden"
RULER = "// ====="


class Malformed(Exception):
    """A golden file that cannot be a test; the message says what to repair."""


@dataclass(frozen=True)
class Story:
    """A parsed golden file.

    Attributes:
      opening: the comment above the first section.
      sections: by name, without surrounding blank lines.
    """

    opening: str
    sections: dict[str, str]

    def __str__(self) -> str:
        parts = [self.opening, *(f"{RULER} {name}\n{text}" for name, text in self.sections.items())]
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Pass:
    """How the stories of one folder are told.

    Attributes:
      given: sections that the author writes.
      told: sections that the pass writes.
      run: from the given sections to the told ones.
    """

    given: tuple[str, ...]
    told: tuple[str, ...]
    run: Callable[[dict[str, str]], dict[str, str]]

    @property
    def sections(self) -> tuple[str, ...]:
        return (*self.given, *self.told)


def parse(text: str, stage: Pass, *, told: bool) -> Story:
    """Read a golden file.

    Args:
      told: the pass's own sections must be there too (they may be missing while they are being written).

    Raises:
      Malformed: it is no story of this pass.
    """
    opening, *rest = re.split(rf"^{RULER}", text, flags=re.MULTILINE)
    if not opening.strip():
        raise Malformed("say in a comment above the first section what the file shows")
    if any(line and not line.startswith("//") for line in opening.splitlines()):
        raise Malformed(f"something other than comments stands above the first '{RULER}' line")
    sections: dict[str, str] = {}
    for part in rest:
        name, _, body = part.partition("\n")
        name, body = name.strip(), body.strip("\n").rstrip()
        if name not in stage.sections:
            raise Malformed(f"section {name!r} is of no use here; this pass has {', '.join(stage.sections)}")
        if name in sections:
            raise Malformed(f"section {name!r} stands twice")
        if not body.strip() and (told or name in stage.given):
            raise Malformed(f"section {name!r} is empty")
        sections[name] = body
    for name in stage.sections if told else stage.given:
        if name not in sections:
            hint = "; run pytest --update-golden to write it" if name in stage.told else ""
            raise Malformed(f"section {name!r} is missing{hint}")
    return Story(opening.strip(), {name: sections[name] for name in stage.sections if name in sections})


def retell(story: Story, stage: Pass) -> Story:
    """The story with the pass's own sections as the pass writes them now."""
    told = stage.run({name: story.sections[name] for name in stage.given})
    assert set(told) == set(stage.told)
    return Story(story.opening, {name: told.get(name) or story.sections[name] for name in stage.sections})


# --------------------------------------------------------------------------- the passes


def _program(text: str) -> Program:
    return read_module(text.encode(), name="the input section")


def print_module(module: object) -> str:
    """Text of a module without what differs between the supported releases of JAX."""
    text = _mlir.to_text(module).strip()
    return text.replace("is_stable = true, ", "")  # newer releases say so of chlo.top_k, older ones mean it


def _without_jax_numpy(text: str) -> str:
    """The module with only the heads of the functions that jax.numpy itself lowers to (sort, take, argmax …).

    Their bodies are neither ours nor the same in every release.
    """
    own = r"^  func\.func private @(?!hire_site)(.*) \{\n(?:.*\n)*?  \}$"
    return re.sub(own, r"  func.func private @\1 { … }", text, flags=re.MULTILINE)


def _run_normalize(given: dict[str, str]) -> dict[str, str]:
    with _mlir.fresh_context():
        module = _mlir.parse(given["input"])
        before = _census(module)
        normalize(module)
        assert module.operation.verify()
        after = _census(module)
        output = print_module(module)
    lines = [
        f"{name}: {before[name]} → {after[name]}" for name in sorted(before | after) if before[name] != after[name]
    ]
    return {"report": "\n".join(lines), "output": output}


def _census(module: object) -> Counter[str]:
    counts: Counter[str] = Counter()

    def visit(op: object) -> None:
        counts[op.name] += 1
        if op.name == "stablehlo.while":
            counts["carries of loops"] += len(op.operands)
        for region in op.regions:
            for block in region.blocks:
                for inner in block.operations:
                    visit(inner.operation)

    visit(module.operation)
    return counts


def _run_detect(given: dict[str, str]) -> dict[str, str]:
    return {"report": inspect_program(_program(given["input"])).text(full=True)}


def _run_splice(given: dict[str, str]) -> dict[str, str]:
    names = {name: getattr(hire, name) for name in ("Config", "LowRank", "Quantized", "Rule")}
    config = eval(given["config"], {"__builtins__": {}}, names)  # our own files
    done = rewrite_program(_program(given["input"]), config, None, "cpu")
    if done.spliced is None:
        raise Malformed(f"nothing was spliced: {done.report}")
    report = replace(done.report, seconds={})
    arguments = [f"arg{i}" for i in done.spliced.kept]
    arguments += [f"{entry.name} of {entry.preparation}" for entry in done.spliced.prepared]
    signature = [f"  %arg{i} is {name}" for i, name in enumerate(arguments)]
    with _mlir.fresh_context():
        output = _without_jax_numpy(print_module(_mlir.parse(done.spliced.module)))
    return {"report": "\n".join([str(report), "arguments of the step:", *signature]), "output": output}


PASSES = {
    "normalize": Pass(("input",), ("report", "output"), _run_normalize),
    "detect": Pass(("input",), ("report",), _run_detect),
    "splice": Pass(("input", "config"), ("report", "output"), _run_splice),
}


def stories() -> list[tuple[str, Path]]:
    """Every golden file with its pass."""
    return [(path.parent.name, path) for path in sorted(FOLDER.glob("*/*"))]
