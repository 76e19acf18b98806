"""Write the table of supported models in docs/models.md from what tests/zoo expects: ``python tests/zoo/table.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from lowered import Model
from test_zoo import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: tests/zoo/table.py -->", "<!-- end of table -->"


def table() -> str:
    """One row a model: what has to be found in it."""
    rows = ["| code base | model | feed-forward blocks | heads | what is special |", "|---|---|---|---|---|"]
    rows += [_row(model) for family in FAMILIES for model in family.MODELS]
    return "\n".join(rows)


def _row(model: Model) -> str:
    expected = model.expected
    blocks = f"{expected.blocks} × {'gated ' * expected.gated}{expected.activation}" if expected.blocks else "none"
    return f"| {model.family} | {model.name} | {blocks} | {expected.heads} | {model.note} |"


def updated(page: str) -> str:
    """The page with the table of today."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
