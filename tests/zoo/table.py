"""Write the table of supported models in docs/models.md from what tests/zoo expects: ``python tests/zoo/table.py``."""

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
    """One row a model: what has to be found in it, and what was when it was last measured (``measure.py``)."""
    known = json.loads(RESULTS.read_text())
    head = (
        "code base | model | feed-forward blocks | heads | found | by default | by rule | full width | what is special"
    )
    rows = [f"| {head} |", "|---|---|---|---|---|---|---|---|---|"]
    rows += [_row(model, known.get(model.id)) for family in FAMILIES for model in family.MODELS]
    return "\n".join(rows)


def _row(model: Model, seen: dict[str, Any] | None) -> str:
    expected = model.expected
    blocks = f"{expected.blocks} × {'gated ' * expected.gated}{expected.activation}" if expected.blocks else "none"
    return f"| {model.family} | {model.name} | {blocks} | {expected.heads} | {_seen(seen)} | {model.note} |"


def _seen(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return " | | | "
    found = [f"{seen[kind]} {kind}" for kind in ("blocks", "heads", "experts") if seen[kind] or kind == "blocks"]
    difference = "equal" if seen["full width"] == 0 else f"{seen['full width']:.0e}"
    return f"{' + '.join(found)} | {seen['by default']} | {seen['by rule']} | {difference}"


def updated(page: str) -> str:
    """The page with the table of today."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
