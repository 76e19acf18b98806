"""An artifact as one file: a zip archive with members stored as they are, each a stretch of the file."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hire_compiler.errors import ArtifactError

BEGINNING = b"PK\x03\x04"  # of every zip archive that holds something
_END = b"PK\x05\x06"  # of the record that ends one without a comment, 22 bytes before the end
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
    """Where the members of an archive lie: by name, start and size.

    Raises:
      ArtifactError: it is truncated or corrupted, or its members are compressed.
    """
    damaged = f"{path} is truncated or corrupted: it is no whole zip archive"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a damaged archive fails in many ways
        raise ArtifactError(f"{damaged} ({error})") from None
    found: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        file.seek(-22, 2)
        if not file.read().startswith(_END):
            raise ArtifactError(f"{damaged} (something follows its end)")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ArtifactError(f"{path}/{entry.filename} is compressed: pack the archive without (zip -0)")
            if entry.filename in found:
                raise ArtifactError(f"{damaged} ({entry.filename} stands in it twice)")
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(BEGINNING):
                raise ArtifactError(f"{damaged} ({entry.filename} is not where it should be)")
            _, name, extra = _LOCAL_HEADER.unpack(header)
            found[entry.filename] = (entry.header_offset + _LOCAL_HEADER.size + name + extra, entry.file_size)
    return found
