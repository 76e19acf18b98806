"""Two texts side by side, as they grow; one below the other where there is no terminal, or no ``rich``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sides:
    """Two texts, and what stands below each."""

    texts: tuple[str, str]
    below: tuple[str, str]


Show = Callable[[Sides], None]


@contextmanager
def side_by_side(titles: tuple[str, ...]) -> Iterator[Show]:
    """A function that shows two texts anew, for the duration of a block."""
    live = _live() if sys.stdout.isatty() else None
    if live is None:
        last: list[Sides] = []
        yield lambda sides: last.__setitem__(slice(None), [sides])
        for sides in last:
            for title, text, below in zip(titles, sides.texts, sides.below, strict=True):
                print(f"--- {title}, {below}\n{text}\n", flush=True)
        return
    with live:
        yield lambda sides: live.update(_columns(titles, sides))


def _live() -> Any:
    try:
        from rich.live import Live
    except ModuleNotFoundError:
        return None
    return Live(refresh_per_second=20)


def _columns(titles: tuple[str, ...], sides: Sides) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(expand=True)
    for _ in titles:
        grid.add_column(ratio=1)
    panels = zip(titles, sides.texts, sides.below, strict=True)
    grid.add_row(*(Panel(Text(text), title=title, subtitle=below) for title, text, below in panels))
    return grid
