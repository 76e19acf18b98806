"""What was tried: programs, rows, forced fall-backs, and the share that was made to be hard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

COLUMNS = ("programs", "dense", "refused", "rows", "adversarial", "fell back", "faults")


@dataclass
class Tally:
    """Counts by kind of program (``strict float32`` …)."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, kind: str, **numbers: int) -> None:
        self.counts.setdefault(kind, Counter()).update(numbers)

    def add_outcome(self, kind: str, outcome: Any) -> None:
        """Count one program that was tried, by what came of it."""
        self.add(
            kind, tried=1, programs=int(outcome.status == "rewritten"), dense=int(outcome.status == "dense"),
            refused=int(outcome.status == "refused"), rows=outcome.rows, adversarial=outcome.hard,
            fell_back=outcome.fell_back, faults=int(bool(outcome.faults)),
        )  # fmt: skip

    def total(self) -> Counter[str]:
        return sum(self.counts.values(), Counter())

    def table(self) -> str:
        """As markdown."""
        lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        for kind, counts in [*sorted(self.counts.items()), ("total", self.total())]:
            lines.append(f"| {kind} | " + " | ".join(str(counts[name]) for name in _names()) + " |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, dict[str, int]]:
        return {kind: dict(counts) for kind, counts in self.counts.items()}

    def merge(self, other: dict[str, dict[str, int]]) -> None:
        for kind, counts in other.items():
            self.add(kind, **counts)


def _names() -> tuple[str, ...]:
    return tuple(column.replace(" ", "_") for column in COLUMNS)
