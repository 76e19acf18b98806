"""Where the files of an artifact lie on the disk, and whether they are what its manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hire_compiler.errors import ArtifactError
from hire_compiler.files.path_kind import kind_of
from hire_compiler.offline.disk.archive import is_archive, stretches
from hire_compiler.offline.disk.manifest import MANIFEST, File

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Member:
    """A stretch of a file on the disk.

    Attributes:
      path: of the file.
      name: for messages.
      start, size: where it lies, in bytes.
    """

    path: Path
    name: str
    start: int
    size: int

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Some of its bytes; all by default."""
        with self.path.open("rb") as file:
            file.seek(self.start + start)
            return file.read(max(0, min(self.size if size is None else size, self.size - start)))

    def chunks(self) -> Iterator[bytes]:
        """All of its bytes, a few at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left and (data := file.read(min(left, _CHUNK))):
                left -= len(data)
                yield data

    def check(self, expected: File) -> None:
        """Compare it with what the manifest says.

        Raises:
          ArtifactError: it is truncated or corrupted; says which.
        """
        self.check_size(expected)
        hashed = hashlib.sha256()
        for data in self.chunks():
            hashed.update(data)
        if hashed.hexdigest() != expected.sha256:
            raise ArtifactError(f"{self.name} is corrupted: its checksum is wrong")

    def check_size(self, expected: File) -> None:
        """Compare its size with what the manifest says.

        Raises:
          ArtifactError: it is too short or too long.
        """
        if self.size != expected.bytes:
            what = "truncated" if self.size < expected.bytes else "corrupted"
            raise ArtifactError(f"{self.name} is {what}: it has {self.size} bytes of {expected.bytes}")


@dataclass(frozen=True)
class Stored:
    """An artifact on the disk.

    Attributes:
      path: its directory, or the file that holds them all.
      members: its files by name.
    """

    path: Path
    members: dict[str, Member]

    def member(self, name: str) -> Member:
        """One of its files.

        Raises:
          ArtifactError: there is no such file.
        """
        if name not in self.members:
            raise ArtifactError(f"{self.path / name} is missing from the artifact")
        return self.members[name]


def whole_file(path: Path, what: str) -> Member:
    """A file as one member; never a pipe, a device or a socket, whose reading may block or never end.

    Args:
      path: of the file.
      what: it should be, for the message.

    Raises:
      ArtifactError: there is none, or it is something else.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: no such file")
    if not path.is_file():
        raise ArtifactError(f"{path} is no {what}: it is {kind_of(path)}")
    return Member(path, str(path), 0, path.stat().st_size)


def find_stored(path: Path) -> Stored:
    """Find the files of an artifact; none is read.

    Raises:
      ArtifactError: there is no artifact, or its archive is damaged.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: no such artifact")
    if path.is_dir():
        # A link is followed: Hugging Face's cache is made of them, and every content is compared with its hash.
        files = {entry.name: entry for entry in path.iterdir() if entry.is_file()}
        members = {name: Member(file, str(file), 0, file.stat().st_size) for name, file in files.items()}
    elif not path.is_file():
        raise ArtifactError(f"{path} is no artifact: it is {kind_of(path)}")
    elif is_archive(path):
        members = {name: Member(path, f"{path}/{name}", *stretch) for name, stretch in stretches(path).items()}
    else:
        raise ArtifactError(f"{path} is a file, but no artifact (or its beginning is gone): rewrite the model first")
    if MANIFEST not in members:
        raise ArtifactError(f"{path} is no artifact: it has no {MANIFEST}")
    return Stored(path, members)
