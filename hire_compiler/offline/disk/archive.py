"""An artifact as one file: a zip archive with members stored as they are, each a stretch of the file."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hire_compiler.errors import ArtifactError

BEGINNING = b"PK\x03\x04"  # of every zip archive that holds something
_END = b"PK\x05\x06"  # of the record that ends one without a comment, 22 bytes before the end
_ENCRYPTED = 1  # bit of the flags of a member
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # its signature, and the lengths of the name and of what else is behind it


class ArchiveWriter:
    """Writes members one after another, each of any size."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A member to write."""
        info = zipfile.ZipInfo(name)  # of 1980: equal contents make equal files
        info.external_attr = 0o644 << 16
        with self._archive.open(info, "w", force_zip64=True) as file:
            yield file  # type: ignore[misc]

    def close(self) -> None:
        """Write the table of contents."""
        self._archive.close()


def is_archive(path: Path) -> bool:
    """Whether a file begins like a zip archive."""
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


def stretches(path: Path) -> dict[str, tuple[int, int]]:
    """Where the members of an archive lie: by name, start and size. None lies over another, or outside of the file.

    Raises:
      ArtifactError: it is truncated or corrupted, its members are compressed or encrypted, or a name is no plain name.
    """
    damaged = f"{path} is truncated or corrupted: it is no whole zip archive"
    try:
        with zipfile.ZipFile(path) as archive:
            entries, end = archive.infolist(), archive.start_dir
    except Exception as error:  # a damaged archive fails in many ways
        raise ArtifactError(f"{damaged} ({' '.join(str(error).split())})") from None
    found: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        file.seek(-22, 2)
        if not file.read().startswith(_END):
            raise ArtifactError(f"{damaged} (something follows its end)")
        for entry in entries:
            _check_entry(entry, path)
            if entry.filename in found:
                raise ArtifactError(f"{damaged} ({entry.filename} stands in it twice)")
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(BEGINNING):
                raise ArtifactError(f"{damaged} ({entry.filename} is not where it should be)")
            _, name, extra = _LOCAL_HEADER.unpack(header)
            if file.read(name) != entry.filename.encode():  # unzip may go by this name
                raise ArtifactError(f"{damaged} ({entry.filename} has another name where it lies)")
            found[entry.filename] = (entry.header_offset + _LOCAL_HEADER.size + name + extra, entry.file_size)
    _check_apart(found, end, damaged)
    return found


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    """Refuse what could mean more than a stretch of the file, here or where somebody unpacks it."""
    name = entry.filename
    if name in ("", ".", "..") or any(c in name for c in "/\\:") or not name.isascii() or not name.isprintable():
        raise ArtifactError(f"{path} holds {name!r}, which is no plain name of a file")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ArtifactError(f"{path}/{name} is compressed: pack the archive without (zip -0)")
    if entry.flag_bits & _ENCRYPTED:
        raise ArtifactError(f"{path}/{name} is encrypted: unpack the archive, and pack it without a password")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ArtifactError(f"{path}/{name} is a link or a device, not a file")


def _check_apart(found: dict[str, tuple[int, int]], end: int, damaged: str) -> None:
    """Refuse members that share bytes, or that reach into the table behind them."""
    before = 0
    for name, (start, size) in sorted(found.items(), key=lambda item: item[1]):
        if start < before:
            raise ArtifactError(f"{damaged} ({name} lies over another member)")
        before = start + size
    if before > end:
        raise ArtifactError(f"{damaged} (a member is longer than the file)")
