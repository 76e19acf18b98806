"""The golden harness: one file is one complete little story of one pass.

::

    // What this file shows, in a sentence or two.

    // ===== input
    func.func @main(…) …            hand-written StableHLO

    // ===== types                  (specialize) of the arguments, a line each; "platform: 1" for the hidden index
    // ===== config                 (plan, splice) a hire.Config as Python
    // ===== setting                (plan, splice; may be left out) lines "name: value", see ``Setting``
    // ===== calibration            (plan, splice; may be left out) a hire.Calibration as Python
    // ===== counted                (plan, splice; may be left out) by exact block of the default, as Python: in how
                                    many calls which percentage of its neurons was active; it is planned anew then
    // ===== report                 what the pass says
    // ===== plan                   (plan) the decisions as a plan that is kept, a line a site
    // ===== output                 (specialize, normalize, splice) the module afterwards, see ``golden_text.py``

The folder names the pass, which decides the sections. What the pass tells is compared whole, and rewritten by
``pytest tests/test_golden.py --update-golden``, together with the index in ``docs/rewrites.md``. A section that is
missing, empty, repeated, or of no use to the pass is an error, so that no file can silently test less than it seems to.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.calling.adapt import adapted
from hire_compiler.capture.program import Program
from hire_compiler.errors import TransformError
from hire_compiler.learned.activity import Activity
from hire_compiler.learned.calibration import Moment
from hire_compiler.learned.trial import Trial
from hire_compiler.offline.source.source import source_from_bytes
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.passes.normalize.specialize_export import specialize
from hire_compiler.passes.pipeline import Rewritten, inspect_program, rewrite_program
from hire_compiler.passes.plan.adapted import Adapted, BlockCounts
from hire_compiler.passes.splice.splice import Spliced
from hire_compiler.passes.verify.verify import verify
from hire_compiler.reports.findings import Certificate
from hire_compiler.runtime.count_active import TOGETHER, count_active
from hire_compiler.runtime.skip_zeros import SHARES
from hire_compiler.runtime.target import target_for
from tests.support.golden_text import print_module, print_spliced

FOLDER = Path(__file__).parents[1] / "golden"
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
      may: sections that the author may write.
    """

    given: tuple[str, ...]
    told: tuple[str, ...]
    run: Callable[[dict[str, str]], dict[str, str]]
    may: tuple[str, ...] = ()

    @property
    def sections(self) -> tuple[str, ...]:
        return (*self.given, *self.may, *self.told)


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
        if not body.strip() and (told or name not in stage.told):
            raise Malformed(f"section {name!r} is empty")
        sections[name] = body
    for name in (*stage.given, *stage.told) if told else stage.given:
        if name not in sections:
            hint = "; run pytest --update-golden to write it" if name in stage.told else ""
            raise Malformed(f"section {name!r} is missing{hint}")
    return Story(opening.strip(), {name: sections[name] for name in stage.sections if name in sections})


def retell(story: Story, stage: Pass) -> Story:
    """The story with the pass's own sections as the pass writes them now."""
    given = {name: text for name, text in story.sections.items() if name not in stage.told}
    told = stage.run(given)
    assert set(told) == set(stage.told)
    every = {**given, **told}
    return Story(story.opening, {name: every[name] for name in stage.sections if name in every})


# --------------------------------------------------------------------------- the passes


@dataclass(frozen=True)
class Setting:
    """Where a program is to run, and how much of the result the story prints.

    Attributes:
      platform: ``cpu``, ``gpu`` or ``tpu``.
      devices: over how many its arguments are spread, as their shardings say.
      bodies: of the functions that take the place of sites: ``outlined``, ``whole`` or ``heads``.
      weights: ``unknown``, or ``widened``: every entry of a float32 weight is a bfloat16 number.
      plan: ``made``, or ``kept``: what was planned is given to another run.
    """

    platform: str = "cpu"
    devices: int = 1
    bodies: str = "outlined"
    weights: str = "unknown"
    plan: str = "made"

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read the lines of a section.

        Raises:
          Malformed: a line is no setting.
        """
        choices = {
            "platform": {name: name for name in ("cpu", "gpu", "tpu")},
            "devices": {str(n): n for n in (2, 4, 8)},
            "bodies": {name: name for name in ("whole", "heads")},
            "weights": {"widened": "widened"},
            "plan": {"kept": "kept"},
        }
        found: dict[str, Any] = {}
        for line in filter(None, text.splitlines()):
            name, _, value = line.partition(": ")
            if value not in choices.get(name, {}):
                known = "; ".join(f"{name}: {', '.join(values)}" for name, values in choices.items())
                raise Malformed(f"{line!r} is no setting; there are {known}")
            found[name] = choices[name][value]
        return cls(**found)


def _program(text: str) -> Program:
    return source_from_bytes(text.encode(), "the input section", {}).program()


def _run_specialize(given: dict[str, str]) -> dict[str, str]:
    lines = given["types"].splitlines()
    platform = int(lines.pop(0).removeprefix("platform: ")) if lines[0].startswith("platform") else None
    with _mlir.fresh_context():
        types = [_mlir.tensor_type(_mlir.ir.Type.parse(f"tensor<{line}>")) for line in lines]
        module = _mlir.parse(given["input"])
        before, data = _census(module), _mlir.to_bytecode(module)
    done = specialize(data, types, platform)
    with _mlir.fresh_context():
        module = _mlir.parse(done.module)
        report = [*_changed(before, _census(module)), f"constants that are arguments now: {len(done.constants)}"]
        return {"report": "\n".join(report), "output": print_module(module)}


def _run_normalize(given: dict[str, str]) -> dict[str, str]:
    with _mlir.fresh_context():
        module = _mlir.parse(given["input"])
        before = _census(module)
        normalize(module)
        assert module.operation.verify()
        return {"report": "\n".join(_changed(before, _census(module))), "output": print_module(module)}


def _changed(before: Counter[str], after: Counter[str]) -> list[str]:
    """A line for every kind of operation of which there are more or fewer."""
    return [f"{name}: {before[name]} → {after[name]}" for name in sorted(before | after) if before[name] != after[name]]


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


_NAMES = ("Calibration", "Cascade", "Config", "Exact", "LowRank", "Quantized", "Rule")


def _rewrite(given: dict[str, str]) -> tuple[Setting, Rewritten]:
    names: dict[str, Any] = {name: getattr(hire, name) for name in _NAMES}
    names |= {"Moment": Moment, "active": active, "tried": tried, "eye": np.eye}
    config, calibration = (_python(given.get(name), names) for name in ("config", "calibration"))
    setting = Setting.parse(given.get("setting", ""))
    program = _program(given["input"])
    fits = (lambda _: True) if setting.weights == "widened" else None
    done = rewrite_program(program, config, calibration, setting.platform, setting.devices, fits=fits)
    if setting.plan == "kept":
        kept = hire.Config(plan=hire.Plan({setting.platform: done.records}))
        done = rewrite_program(program, kept, calibration, setting.platform, setting.devices, fits=fits)
    if counted := _python(given.get("counted"), {}):
        said = _adapted(done, counted, setting.platform)
        done = rewrite_program(program, config, calibration, setting.platform, setting.devices, adapted=said, fits=fits)
    return setting, done


def _adapted(done: Rewritten, counted: dict[str, dict[int, int]], platform: str) -> dict[str, Adapted]:
    """What is done from now on with blocks that counted so much in their calls."""
    sites = {site.id: site for site in done.report.sites}
    decisions = {decision.site: decision for decision in done.report.decisions}
    counts, proofs = {}, []
    for site, times in counted.items():
        width, decision = sites[site].width, decisions[site]
        tried = [*(neurons for neurons, _ in decision.budgets), decision.candidates]
        shares, ran = [0] * (SHARES + 1), [0] * (len(tried) + 1)
        for percent, calls in times.items():
            neurons = percent * width // 100
            shares[-(-neurons * SHARES // width)] += calls
            ran[sum(neurons > budget for budget in tried)] += calls
        counts[site] = BlockCounts(sites[site].batch * sum(ran[:-1]), tuple(ran), tuple(shares))
        proofs.append(Certificate(site=site, rows=sum(ran), proven=sum(ran[:-1]), ran=tuple(ran)))
    calls = max(sum(times.values()) for times in counted.values())
    found = replace(done.report, certificates=tuple(proofs))
    return adapted(found, calls, {}, counts, target_for(platform).costs)


def _python(text: str | None, names: dict[str, Any]) -> Any:
    return None if text is None else eval(text, {"__builtins__": {}}, names)  # our own files


def active(*shares: float, rows: int = 1000) -> Activity:
    """What a calibration counts of neurons that are active, each by itself, in such shares of the rows."""
    width = len(shares)
    drawn = np.random.default_rng(0).random((rows, width)) < np.array(shares)
    return Activity(width, np.asarray(jax.jit(count_active)(drawn), np.float64))


def tried(*recalls: float, rows: int = 1000) -> Trial:
    """What a predictor found on calibration rows: its recall at each of ``SHARES``, and as large an error."""
    each = np.stack([np.array(recalls), 1 - np.array(recalls)], axis=-1)
    return Trial(np.tile(each, (len(TOGETHER), 1, 1)), rows)


def _run_plan(given: dict[str, str]) -> dict[str, str]:
    try:
        setting, done = _rewrite(given)
    except hire.ConfigError as error:
        return {"report": textwrap.fill(f"{type(error).__name__}: {error}", 110), "plan": "none"}
    return {"report": _report(done, full=True), "plan": str(hire.Plan({setting.platform: done.records}))}


def _report(done: Rewritten, *, full: bool) -> str:
    text = replace(done.report, seconds={}).text(full=full)
    return "\n".join(line for line in text.splitlines() if not line.startswith("  fast?    not measured"))


def _run_splice(given: dict[str, str]) -> dict[str, str]:
    setting, done = _rewrite(given)
    if done.spliced is None:
        raise Malformed(f"nothing was spliced: {done.report}")
    lines = [_report(done, full=False), *_signature(done.spliced)]
    if done.spliced.counters:
        counters = [f"{counter.measure} of {counter.site}" for counter in done.spliced.counters]
        lines.append(f"results of the step: the author's, and {', '.join(counters)}")
    with _mlir.fresh_context():
        output = print_spliced(_mlir.parse(done.spliced.module), setting.bodies)
    return {"report": "\n".join(lines), "output": output}


def _signature(spliced: Spliced) -> list[str]:
    kept = ", ".join(f"arg{i}" for i in spliced.kept)
    lines = [f"arguments of the step: {kept}, and prepared:"]
    for i, entry in enumerate(spliced.prepared, len(spliced.kept)):
        preparation = spliced.preparations[entry.preparation]
        bits = dict(preparation.bits)
        made_of = ", ".join(f"arg{i}" for i in preparation.arguments)
        made = f"the bits of arg{bits[entry.name]}" if entry.name in bits else f"from {made_of}"
        lines.append(f"  %arg{i} is {entry.name}, {made}")
    return lines


def _run_verify(given: dict[str, str]) -> dict[str, str]:
    with _mlir.fresh_context():
        module = _mlir.to_bytecode(_mlir.parse(given["input"]))
    try:
        return {
            "report": f"collectives in branches or loops, which every device of their group reaches: {verify(module)}"
        }
    except TransformError as error:
        return {"report": textwrap.fill(f"{type(error).__name__}: {error}", 110)}


_SETTING = ("setting", "calibration", "counted")

PASSES = {
    "specialize": Pass(("input", "types"), ("report", "output"), _run_specialize),
    "normalize": Pass(("input",), ("report", "output"), _run_normalize),
    "detect": Pass(("input",), ("report",), _run_detect),
    "plan": Pass(("input", "config"), ("report", "plan"), _run_plan, _SETTING),
    "splice": Pass(("input", "config"), ("report", "output"), _run_splice, _SETTING),
    "verify": Pass(("input",), ("report",), _run_verify),
}


def stories() -> list[tuple[str, Path]]:
    """Every golden file with its pass."""
    return [(path.parent.name, path) for path in sorted(FOLDER.glob("*/*"))]
