"""Progress reporting for long operations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # what, done, of how many


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Say nothing."""


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress function for the duration of a block: a bar with ``rich``, else a line that is rewritten.

    On anything but a terminal it says nothing.
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    try:
        from rich.console import Console
        from rich.progress import Progress as Bars
    except ModuleNotFoundError:
        yield _line
        print("\r\x1b[K", end="", file=sys.stderr)
        return
    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("…", total=None)
        yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total)


def _line(what: str, done: int, total: int) -> None:
    print(f"\r\x1b[K{what} {done}/{total}", end="", file=sys.stderr, flush=True)
