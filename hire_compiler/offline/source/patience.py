"""How long jaxlib may read a file: some corrupted ones lead its reader in a circle, and Python cannot stop it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_PER_MIB = 1.0  # seconds; jaxlib reads some 50 MiB in one
_seconds: list[float] = []  # empty: as long as it takes


def give_up_after(seconds: float) -> None:
    """From now on a file that is read for longer ends this process by ``SIGALRM``.

    Only for a process whose parent says what happened: no handler of ours would ever run.

    Args:
      seconds: for a small file; each MiB of a larger one has a second more.
    """
    _seconds[:] = [seconds]


@contextmanager
def reading(data: bytes) -> Iterator[None]:
    """While it lasts, jaxlib reads these bytes."""
    if not _seconds or not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, _seconds[0] + _PER_MIB * len(data) / 2**20)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
