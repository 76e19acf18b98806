"""Write an artifact, whole or not at all; its weights are prepared on the way, one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from hire_compiler.errors import HireError
from hire_compiler.files.atomic import new_directory, new_file
from hire_compiler.files.progress import Progress
from hire_compiler.offline.artifact.contents import CONSTANTS, Contents
from hire_compiler.offline.artifact.step_weights import originals, prepared_tensors
from hire_compiler.offline.disk.archive import ArchiveWriter
from hire_compiler.offline.disk.manifest import FORMAT, MANIFEST, File, Manifest, Platform
from hire_compiler.offline.disk.stored import Member, find_stored
from hire_compiler.offline.disk.tensor_files import TensorWriter
from hire_compiler.offline.disk.tensors import TensorSpec
from hire_compiler.offline.disk.versions import versions_here

Open = Callable[[str], AbstractContextManager[BinaryIO]]  # a member of the artifact, by name, to write
FILE_SUFFIX = ".hire"


def save(contents: Contents, path: Path, *, overwrite: bool, new: bool, progress: Progress) -> None:
    """Write an artifact; see :meth:`hire_compiler.Artifact.save`."""
    with _destination(path, overwrite) as create:
        files = {name: _write(create, name, data) for name, data in contents.blobs.items()}
        if specs := contents.constants.specs:
            read = ((name, contents.constants.read(name)) for name in specs)
            files[CONSTANTS] = _write_tensors(create, CONSTANTS, specs, read, {})
        manifest = replace(contents.manifest, files=files)
        platforms, hashes = {}, dict[str, str]()
        for name, entry in manifest.platforms.items():
            platforms[name] = _save_weights(contents, create, name, entry, manifest, hashes, new, progress)
        manifest = replace(manifest, platforms=platforms, hashes=hashes or contents.manifest.hashes)
        _write(create, MANIFEST, manifest.to_bytes())


def save_upgraded(contents: Contents, path: Path, *, overwrite: bool, progress: Progress) -> None:
    """Write a stored artifact with its programs exported anew, and everything else as it is.

    Raises:
      HireError: a program cannot be exported anew, or the path may not be replaced.
      ArtifactError: a stored file is damaged.
    """
    assert contents.stored is not None
    blobs = dict(contents.blobs)
    for done, file in enumerate(contents.manifest.portable):
        progress("exporting anew", done, len(contents.manifest.portable))
        blobs[file] = bytes(contents.renewed(file).serialize())
    with _destination(path, overwrite) as create:
        files = {name: _write(create, name, data) for name, data in blobs.items()}
        for name, expected in contents.manifest.files.items():
            if name not in blobs:
                files[name] = _copy(create, contents.stored.member(name), name, expected)
        versions = versions_here() | {"first_written_by": contents.manifest.versions.get("jax", "")}
        _write(create, MANIFEST, replace(contents.manifest, files=files, versions=versions).to_bytes())


def _copy(create: Open, member: Member, name: str, expected: File) -> File:
    member.check(expected)
    with create(name) as file:
        for data in member.chunks():
            file.write(data)
    return expected


@contextmanager
def _destination(path: Path, overwrite: bool) -> Iterator[Open]:
    """What takes the members: a file or a directory, of the form of the artifact that it replaces, if any."""
    replaces = replacing(overwrite)
    one_file = path.is_file() if replaces(path) else path.suffix == FILE_SUFFIX
    if not one_file:
        with new_directory(path, replaces=replaces) as directory:
            yield lambda name: (directory / name).open("wb")
        return
    with new_file(path, replaces=replaces) as temporary:
        writer = ArchiveWriter(temporary)
        try:
            yield writer.open
        finally:
            writer.close()


def replacing(overwrite: bool) -> Callable[[Path], bool]:
    """Whether what stands at a path may be replaced: an artifact, if that was said; nothing else ever."""
    return lambda old: overwrite and _is_artifact(old)


def _save_weights(
    contents: Contents,
    create: Open,
    name: str,
    entry: Platform,
    manifest: Manifest,
    hashes: dict[str, str],
    new: bool,
    progress: Progress,
) -> Platform:
    if contents.given is None and manifest.sources:
        return replace(entry, stored="")
    tensors, total = originals(contents), len(entry.weights)

    def made() -> Iterator[tuple[str, Any]]:
        for done, pair in enumerate(prepared_tensors(contents, entry, tensors, hashes, new=new), start=1):
            yield pair
            progress(f"preparing weights for {name}", done, total)

    order = {n: entry.weights[n] for p in entry.preparations for n in p.outputs.values()}
    order |= {n: entry.weights[n] for n in entry.originals}
    file = f"weights.{name}.safetensors"
    metadata = {"format": "hire-weights", "platform": name, "fingerprint": manifest.fingerprint}
    manifest.files[file] = _write_tensors(create, file, order, made(), metadata)
    return replace(entry, stored=file)


def _write_tensors(
    create: Open, name: str, specs: dict[str, TensorSpec], tensors: Iterable[tuple[str, Any]], metadata: dict[str, str]
) -> File:
    with create(name) as file:
        writer = TensorWriter(file, specs, metadata)
        for tensor, array in tensors:
            writer.write(tensor, array)
    return File(writer.nbytes, writer.sha256.hexdigest())


def _write(create: Open, name: str, data: bytes) -> File:
    with create(name) as file:
        file.write(data)
    return File(len(data), hashlib.sha256(data).hexdigest())


def _is_artifact(path: Path) -> bool:
    try:
        return json.loads(find_stored(path).member(MANIFEST).read())["format"] == FORMAT
    except (HireError, OSError, ValueError, KeyError, TypeError):
        return False
