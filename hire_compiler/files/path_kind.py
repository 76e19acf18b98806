"""What stands at a path, in words: pipes, devices and sockets are no files, though they open like some."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(path: Path) -> str:
    """What a path is, links followed: 'a file', 'a pipe', 'nothing' … ."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a link to nothing" if path.is_symlink() else "nothing"
    return next((word for test, word in _KINDS if test(mode)), "no file")


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a device or a socket."""
    return kind_of(path) in ("a pipe", "a device", "a socket")
