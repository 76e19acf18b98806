"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what, done, of how many


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Say nothing."""
