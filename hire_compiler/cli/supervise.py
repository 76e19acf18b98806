"""Run a command in a child process, so that a crash or an interrupt is one line like any other error.

The readers inside jaxlib abort the whole process on some corrupted files (a name that is no UTF-8 inside a diagnostic)
and run in a circle on others (a location that leads back to itself), and nothing in Python can catch that. An interrupt
may come while modules are imported or while C++ runs, where it turns into any other error, or a crash. So the parent,
which does nothing else, says what happened. The child is forked before JAX has started a thread, and so costs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from hire_compiler.offline.source.patience import give_up_after

INTERRUPTED = 130
PATIENCE = 10.0  # seconds that an interrupted command has to clean up, before it is stopped
READING = 20.0  # seconds that jaxlib may read a small file


def supervised(command: Callable[[], int]) -> int:
    """The exit code of a command; 2 and one line if it crashes, 130 and one line if it is interrupted.

    Where there is no ``fork``, or threads run already, the command runs right here.
    """
    if not hasattr(os, "fork") or threading.active_count() > 1:
        code = _run(command)
        return _say_interrupted() if code == INTERRUPTED else code
    # A terminal is handed through, for the progress bar; a pipe or file gets no half-written messages of a crash.
    reading, writing = (-1, -1) if sys.stderr.isatty() else os.pipe()
    with _noting_interrupts() as interrupts:
        child = os.fork()
        if child == 0:
            _become_child(command, reading, writing, interrupts)
        return _await(child, reading, writing, interrupts)


def _become_child(command: Callable[[], int], reading: int, writing: int, interrupts: list[float]) -> None:
    def interrupt(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not stop the cleaning up
        interrupts.append(time.monotonic())
        raise KeyboardInterrupt

    code = 2
    try:
        signal.signal(signal.SIGINT, interrupt)
        give_up_after(READING)
        _die_with_parent()
        if writing >= 0:
            os.dup2(writing, 2)
            os.close(writing)
            os.close(reading)
        code = INTERRUPTED if interrupts else _run(command)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # of the flush: nobody reads, or the disk is full
        if code != 2:  # else it said so already, of what it could not even print
            os.write(2, f"hire-compiler: the output cannot be written: {error.strerror}\n".encode())
        code = code or 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(INTERRUPTED if interrupts else code)  # and nothing runs on that an interrupt could hit


def _run(command: Callable[[], int]) -> int:
    """The exit code of a command, however it ends."""
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[list[float]]:
    """While it lasts, an interrupt is only noted, with its time."""
    noted: list[float] = []
    before = signal.signal(signal.SIGINT, lambda *_: noted.append(time.monotonic()))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _await(child: int, reading: int, writing: int, interrupts: list[float]) -> int:
    if writing >= 0:
        os.close(writing)
    said, status, told = b"", None, 0
    while status is None:
        if len(interrupts) > told:
            with contextlib.suppress(ProcessLookupError):  # a terminal interrupts both, a script perhaps one
                os.kill(child, signal.SIGINT if told == 0 else signal.SIGKILL)
            told = len(interrupts)
        if interrupts and time.monotonic() > interrupts[0] + PATIENCE:
            os.kill(child, signal.SIGKILL)
        data, status = _step(child, reading)
        said += data
    if reading >= 0:
        said += _rest(reading)
    if interrupts or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == INTERRUPTED):
        return _say_interrupted()
    if os.WIFSIGNALED(status):
        return _say_crashed(os.WTERMSIG(status))
    sys.stderr.buffer.write(said)
    return os.WEXITSTATUS(status)


def _step(child: int, reading: int) -> tuple[bytes, int | None]:
    """What the child said in a moment, and its status if it has ended."""
    data = b""
    with contextlib.suppress(InterruptedError):
        ready = select.select([reading] if reading >= 0 else [], [], [], 0.02)[0]
        data = os.read(reading, 1 << 16) if ready else b""
        if ready and not data:  # it closed its end: it is about to go
            time.sleep(0.001)
    done, status = os.waitpid(child, os.WNOHANG)
    return data, status if done else None


def _rest(reading: int) -> bytes:
    with os.fdopen(reading, "rb") as pipe:
        os.set_blocking(reading, False)  # a process that the command left behind may hold the other end
        return pipe.read() or b""


def _say_interrupted() -> int:
    print("hire-compiler: interrupted; no file is half-written", file=sys.stderr)
    return INTERRUPTED


def _say_crashed(number: int) -> int:
    name = signal.Signals(number).name
    if name == "SIGALRM":
        print("hire-compiler: the reader inside jaxlib came to no end: is the file corrupted?", file=sys.stderr)
        return 2
    why = {"SIGKILL": "out of memory?", "SIGTERM": "somebody stopped it"}.get(name, "is the file corrupted?")
    print(f"hire-compiler: the reader or compiler inside jaxlib crashed ({name}): {why}", file=sys.stderr)
    return 2


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux: a child that outlives its parent goes on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
