"""Write an artifact, whole or not at all; its weights are prepared on the way, one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hire_compiler.offline.atomic import new_directory
from hire_compiler.offline.contents import CONSTANTS, Contents
from hire_compiler.offline.manifest import MANIFEST, File, Manifest, Platform
from hire_compiler.offline.prepare import originals, prepared_tensors
from hire_compiler.offline.progress import Progress
from hire_compiler.offline.tensor_files import TensorWriter
from hire_compiler.offline.tensors import Spec


def save(contents: Contents, path: Path, *, overwrite: bool, new: bool, progress: Progress) -> None:
    """Write an artifact; see :meth:`hire_compiler.Artifact.save`."""
    with new_directory(path, replaces=lambda old: overwrite and _is_artifact(old)) as directory:
        files = {name: _write(directory / name, data) for name, data in contents.blobs.items()}
        if specs := contents.constants.specs:
            read = ((name, contents.constants.read(name)) for name in specs)
            files[CONSTANTS] = _write_tensors(directory / CONSTANTS, specs, read, {})
        manifest = replace(contents.manifest, files=files)
        platforms, hashes = {}, dict[str, str]()
        for name, entry in manifest.platforms.items():
            platforms[name] = _save_weights(contents, directory, name, entry, manifest, hashes, new, progress)
        manifest = replace(manifest, platforms=platforms, hashes=hashes or contents.manifest.hashes)
        (directory / MANIFEST).write_bytes(manifest.to_bytes())


def _save_weights(
    contents: Contents,
    directory: Path,
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
    manifest.files[file] = _write_tensors(directory / file, order, made(), metadata)
    return replace(entry, stored=file)


def _write_tensors(
    path: Path, specs: dict[str, Spec], tensors: Iterable[tuple[str, Any]], metadata: dict[str, str]
) -> File:
    with path.open("wb") as file:
        writer = TensorWriter(file, specs, metadata)
        for name, array in tensors:
            writer.write(name, array)
    return File(writer.nbytes, writer.sha256.hexdigest())


def _write(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    return File(len(data), hashlib.sha256(data).hexdigest())


def _is_artifact(path: Path) -> bool:
    try:
        return json.loads((path / MANIFEST).read_text()).get("format") == "hire-artifact"
    except (OSError, ValueError, AttributeError):
        return False
