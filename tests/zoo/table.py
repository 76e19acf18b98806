"""Write the tables of supported models in docs/models.md from what tests/zoo expects: ``python tests/zoo/table.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from lowered import Model
from measure import RESULTS
from test_zoo import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: tests/zoo/table.py -->", "<!-- end of table -->"


def table() -> str:
    """One row a model: what has to be found in it; and what was found in those that ``measure.py`` has run."""
    known = json.loads(RESULTS.read_text())
    models = [model for family in FAMILIES for model in family.MODELS]
    rows = ["| code base | model | feed-forward blocks | heads | what is special |", "|---|---|---|---|---|"]
    rows += [_row(model) for model in models]
    rows += [
        "",
        "Measured:",
        "",
        "| code base | model | found | by default | by rule | full width |",
        "|---|---|---|---|---|---|",
    ]
    rows += [_measured(model, known[model.id]) for model in models if model.id in known]
    return "\n".join(rows)


def _row(model: Model) -> str:
    expected = model.expected
    blocks = f"{expected.blocks} × {'gated ' * expected.gated}{expected.activation}" if expected.blocks else "none"
    return f"| {model.family} | {model.name} | {blocks} | {expected.heads} | {model.note} |"


def _measured(model: Model, seen: dict[str, Any]) -> str:
    kinds = {"blocks": "block", "heads": "head", "experts": "layer of experts"}
    found = [f"{seen[kind]} {name}{'s' * (seen[kind] != 1)}" for kind, name in kinds.items() if seen[kind]]
    difference = "equal" if seen["full width"] == 0 else f"{seen['full width']:.0e}"
    sites = " + ".join(found) or "none"
    return f"| {model.family} | {model.name} | {sites} | {seen['by default']} | {seen['by rule']} | {difference} |"


def updated(page: str) -> str:
    """The page with the table of today."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
