"""Look at, plan and run every model whose package is installed: ``python tests/zoo/measure.py [PART OF A NAME …]``.

Writes ``measured.json``, which the table in docs/models.md is made of (``python tests/zoo/table.py``): the sites that
were found, how many the default rewrites where only the next token leaves and every site is worth it, how many rules
rewrite, and how far full width is from dense. What is not measured this time keeps its last row.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
from lowered import Model, every_site
from test_zoo import FAMILIES

import hire_compiler as hire
from hire_compiler.runtime.target import stand_in, target_for
from tests.support.masked import largest_difference

RESULTS = Path(__file__).with_name("measured.json")


def measured(model: Model) -> dict[str, Any]:
    """One model's row."""
    function, arguments = model.build()
    step = hire.transform(function, every_site(1.0))
    got, report = step(*arguments), step.report()
    dense = jax.jit(model.build()[0])(*arguments)  # built anew: some modules remember what they were traced with
    return {
        "blocks": sum(site.kind == "ffn" for site in report.sites),
        "heads": sum(site.kind == "head" for site in report.sites),
        "experts": sum(site.kind == "experts" for site in report.sites),
        "by default": _by_default(model),
        "by rule": len(report.rewritten),
        "full width": float(f"{largest_difference(got, dense):.1e}"),
    }


def _by_default(model: Model) -> int:
    """How many sites are rewritten without rules if the token alone leaves, in a program of any size."""
    cpu = target_for("cpu")
    with stand_in(replace(cpu, costs=replace(cpu.costs, worth_bytes=0, choice_bytes=0))):
        function, arguments = model.build()
        try:
            return len(hire.transform(hire.with_sampler(function, "greedy")).report(*arguments).rewritten)
        except hire.HireError:  # no result is the logits
            return len(hire.transform(model.build()[0]).report(*arguments).rewritten)


def main(wanted: list[str]) -> None:
    """Measure, and keep each row at once."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for family in FAMILIES:
        for model in family.MODELS:
            installed = importlib.util.find_spec(model.package or family.PACKAGE) is not None
            if not installed or (wanted and not any(part in model.id for part in wanted)):
                continue
            try:
                rows[model.id] = measured(model)
            except ImportError as error:
                print(f"{model.id}: {error}")
                continue
            print(model.id, rows[model.id], flush=True)
            RESULTS.write_text(json.dumps(rows, indent=0, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
