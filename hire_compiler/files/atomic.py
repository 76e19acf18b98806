"""Whole or not at all: files and directories that appear in one step, or leave what was there.

Everything is written beside its destination, flushed to the disk, and then renamed. A process killed at any moment
leaves the old state; what it had begun is removed by the next one that writes there. Of two that write one path at
once each writes its own, and the later takes the place of the earlier only if it was told that it may.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hire_compiler.errors import HireError
from hire_compiler.files.path_kind import is_special, kind_of

try:
    import fcntl
except ImportError:  # Windows: what a killed process began is then left for the user to remove
    fcntl = None  # type: ignore[assignment]

_NOREPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD

Replaces = Callable[[Path], bool]  # asked whether a destination that exists may go


@contextmanager
def new_file(path: Path, *, replaces: Replaces = Path.is_file) -> Iterator[Path]:
    """A temporary path to write; it takes the place of ``path`` when the block ends without an error.

    Args:
      path: the destination.
      replaces: asked whether a destination that exists may go.

    Raises:
      HireError: it may not, or nothing can be written there.
      OSError: writing failed (the disk is full); it names the destination.
    """
    with _finished(path, replaces, _make_file, 0o666) as temporary:
        yield temporary


@contextmanager
def new_directory(path: Path, *, replaces: Replaces) -> Iterator[Path]:
    """A temporary directory to fill; as :func:`new_file`."""
    with _finished(path, replaces, _make_directory, 0o777) as temporary:
        yield temporary


def check_destination(path: Path, replaces: Replaces = Path.is_file) -> None:
    """Refuse at once, before any work, a path where nothing can be put.

    Raises:
      HireError: it is a pipe, a device or a socket, may not be replaced, or its directory takes no files.
    """
    parent = _parent(path)
    if is_special(path):
        raise HireError(f"{path} is {kind_of(path)}, and what is written here has to be a file: choose another name")
    if (path.exists() or path.is_symlink()) and not replaces(path):
        raise _exists(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise HireError(f"{parent} cannot be written: choose another directory")


def _exists(path: Path) -> HireError:
    return HireError(f"{path} exists already: choose another name, or say that it may be replaced (--force)")


@contextmanager
def _finished(path: Path, replaces: Replaces, make: Callable[[Path], Path], mode: int) -> Iterator[Path]:
    """Put something new, a file or a directory, in its place when the block ends without an error."""
    check_destination(path, replaces)
    _sweep(path)
    temporary, lock = _begin(path, make)
    try:
        yield temporary
        temporary.chmod(mode & ~_umask())
        for entry in temporary.iterdir() if temporary.is_dir() else ():
            _flush(entry)
        _flush(temporary)
        _put(temporary, path, replaces)
        _flush(_parent(path))
    except OSError as error:
        if error.errno is None or not (error.filename is None or str(error.filename).startswith(str(temporary))):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # not of the temporary name
    finally:
        _remove(temporary)
        os.close(lock)


def _begin(path: Path, make: Callable[[Path], Path]) -> tuple[Path, int]:
    """Something new beside the destination, and its lock: nobody sweeps away what is locked."""
    while True:
        try:
            temporary = make(path)
        except OSError as error:
            raise HireError(f"{_parent(path)} cannot be written: {error.strerror}") from None
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # swept away by another writer between the two lines
            continue
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_same(temporary, lock):
            return temporary, lock
        os.close(lock)


def _make_file(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=_parent(path))
    os.close(handle)
    return Path(name)


def _make_directory(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=_prefix(path), dir=_parent(path)))


def _is_same(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _put(temporary: Path, path: Path, replaces: Replaces) -> None:
    if _rename(temporary, path, _NOREPLACE):
        return
    if (path.exists() or path.is_symlink()) and not replaces(path):  # another writer was sooner
        raise _exists(path)
    if not (temporary.is_dir() or path.is_dir()):
        temporary.replace(path)
    elif not path.exists():
        temporary.rename(path)
    elif not _rename(temporary, path, _EXCHANGE):
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


def _rename(first: Path, second: Path, flag: int) -> bool:
    """Rename in one step to where nothing is, or swap two files or directories, where the system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), flag) == 0)


def _sweep(path: Path) -> None:
    """Remove what processes that died had begun at this destination."""
    if fcntl is None:
        return
    for stale in _parent(path).glob(glob.escape(_prefix(path)) + "*"):
        try:
            handle = os.open(stale, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # gone already, or somebody else's
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by its writer as long as that lives
            _remove(stale)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EPERM):
                raise
        finally:
            os.close(handle)


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
