"""Whole or not at all: files and directories that appear in one step, or leave what was there.

Everything is written beside its destination, flushed to the disk, and then renamed. A process killed at any moment
leaves the old state; what it had begun is removed by the next one that writes there.
"""

from __future__ import annotations

import ctypes
import glob
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
def new_file(path: Path, *, replaces: Callable[[Path], bool] = Path.is_file) -> Iterator[Path]:
    """A temporary path to write; it takes the place of ``path`` when the block ends without an error.

    Args:
      path: the destination.
      replaces: asked whether a destination that exists may go.

    Raises:
      HireError: it may not.
    """
    handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=_clear(path, replaces))
    os.close(handle)
    with _finished(Path(name), path, 0o666) as temporary:
        yield temporary


@contextmanager
def new_directory(path: Path, *, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary directory to fill; as :func:`new_file`."""
    parent = _clear(path, replaces)
    with _finished(Path(tempfile.mkdtemp(prefix=_prefix(path), dir=parent)), path, 0o777) as temporary:
        yield temporary


def _clear(path: Path, replaces: Callable[[Path], bool]) -> Path:
    """The directory where something new may be begun."""
    parent = _parent(path)
    if (path.exists() or path.is_symlink()) and not replaces(path):
        raise HireError(f"{path} exists already: choose another name, or say that it may be replaced (--force)")
    _sweep(path)
    return parent


@contextmanager
def _finished(temporary: Path, path: Path, mode: int) -> Iterator[Path]:
    """Put something new, a file or a directory, in its place when the block ends without an error."""
    lock = os.open(temporary, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield temporary
        temporary.chmod(mode & ~_umask())
        for entry in temporary.iterdir() if temporary.is_dir() else ():
            _flush(entry)
        _flush(temporary)
        _put(temporary, path)
        _flush(_parent(path))
    finally:
        os.close(lock)
        _remove(temporary)


def _put(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() or path.is_dir()):
        temporary.replace(path)
    elif not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):
        # Without an exchange there is a moment with nothing at all at the destination.
        old = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=_parent(path)))
        path.rename(old / "old")
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two files or directories in one step, where the system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0)


def _sweep(path: Path) -> None:
    """Remove what processes that died had begun at this destination."""
    if fcntl is None:
        return
    for stale in _parent(path).glob(glob.escape(_prefix(path)) + "*"):
        handle = os.open(stale, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by its writer as long as that lives
        except OSError:
            continue
        finally:
            os.close(handle)
        _remove(stale)


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
