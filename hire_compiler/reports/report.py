"""Everything the compiler can say about one program: plain frozen data, printed as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hire_compiler.reports.findings import (
    Certificate,
    Decision,
    Findings,
    Miss,
    Respelled,
    Site,
    Speed,
    TailError,
    answer_of,
    bytes_read,
    counted,
)
from hire_compiler.reports.text import report_text

__all__ = [
    "Certificate",
    "Decision",
    "Miss",
    "Report",
    "Respelled",
    "Site",
    "Speed",
    "TailError",
    "answer_of",
    "bytes_read",
    "counted",
    "report_of",
]


@dataclass(frozen=True, kw_only=True)
class Report(Findings):
    """Everything the compiler can say about one program.

    Printed, it answers in this order: is it on, is the answer still right, how fast is it (if
    :func:`hire_compiler.compare` ran), and why is not more rewritten.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def text(self, *, full: bool = False) -> str:
        """The report as text of 80 columns.

        Args:
          full: every miss with its place, what calibration saw of the neurons, and the seconds of every stage.
        """
        return report_text(self, full)

    def __str__(self) -> str:
        return self.text()


def report_of(content: Mapping[str, Any]) -> Report:
    """A report out of :meth:`Report.to_dict`, also of one that an earlier version wrote."""
    kinds: dict[str, Any] = {
        "sites": Site,
        "misses": Miss,
        "decisions": Decision,
        "respelled": Respelled,
        "certificates": Certificate,
        "tails": TailError,
    }
    lists = {name: tuple(_entry(kind, entry) for entry in content.get(name, ())) for name, kind in kinds.items()}
    speed = content.get("speed")
    return Report(
        **lists,
        unread=tuple(content.get("unread", ())),
        notes=tuple(content.get("notes", ())),
        speed=_entry(Speed, speed) if speed else None,
        seconds=dict(content.get("seconds", {})),
    )


def _entry(kind: Any, content: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{name: _frozen(value) for name, value in content.items() if name in known})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
