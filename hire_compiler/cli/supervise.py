"""Run a command in a child process, so that a crash of the MLIR reader is an error like any other.

The readers inside jaxlib abort the whole process on some corrupted files (a name that is no UTF-8 inside a diagnostic),
and nothing in Python can catch that. The child is forked before JAX has started a thread, and so costs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable


def supervised(command: Callable[[], int]) -> int:
    """The exit code of a command; 2 and one line if it crashes.

    Where there is no ``fork``, or threads run already, the command runs right here.
    """
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return command()
    # A terminal is handed through, for the progress bar; a pipe or file gets no half-written messages of a crash.
    reading, writing = (-1, -1) if sys.stderr.isatty() else os.pipe()
    child = os.fork()
    if child == 0:
        _die_with_parent()
        if writing >= 0:
            os.dup2(writing, 2)
            os.close(writing)
            os.close(reading)
        return command()
    return _await(child, reading, writing)


def _await(child: int, reading: int, writing: int) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it too, and says so
    said = b""
    if writing >= 0:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        why = "out of memory?" if name == "SIGKILL" else "is the file corrupted?"
        print(f"hire-compiler: the reader or compiler inside jaxlib crashed ({name}): {why}", file=sys.stderr)
        return 2
    sys.stderr.buffer.write(said)
    return os.WEXITSTATUS(status)


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux: a child that outlives its parent goes on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
