"""Whole or not at all: files and directories that appear in one step, or leave what was there.

Everything is written beside its destination, flushed to the disk, and then renamed. A process killed at any moment
leaves the old state; what it had begun is removed by the next one that writes there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hire_compiler.errors import HireError

try:
    import fcntl
except ImportError:  # Windows: what a killed process began is then left for the user to remove
    fcntl = None  # type: ignore[assignment]

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to write; it takes the place of ``path`` when the block ends without an error."""
    handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=_parent(path))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        temporary.replace(path)
        _flush(_parent(path))
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, *, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary directory to fill; it takes the place of ``path`` when the block ends without an error.

    Args:
      path: the destination.
      replaces: asked whether a destination that exists may go.

    Raises:
      HireError: it may not.
    """
    if (path.exists() or path.is_symlink()) and not replaces(path):
        raise HireError(f"{path} exists already: choose another name, or say that it may be replaced (--force)")
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=_parent(path)))
    lock = os.open(temporary, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for entry in temporary.iterdir():
            _flush(entry)
        _flush(temporary)
        _put(temporary, path)
        _flush(_parent(path))
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):
        # Without an exchange there is a moment with nothing at all at the destination.
        old = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=_parent(path)))
        path.rename(old / "old")
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step, where the system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0)


def _sweep(path: Path) -> None:
    """Remove what processes that died had begun at this destination."""
    if fcntl is None:
        return
    for stale in _parent(path).glob(_prefix(path) + "*"):
        if not stale.is_dir():
            continue
        handle = os.open(stale, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by its writer as long as that lives
        except OSError:
            continue
        finally:
            os.close(handle)
        shutil.rmtree(stale, ignore_errors=True)


def _prefix(path: Path) -> str:
    return f".{path.name}.unfinished-"


def _parent(path: Path) -> Path:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise HireError(f"{parent} is no directory: make it first")
    return parent


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
