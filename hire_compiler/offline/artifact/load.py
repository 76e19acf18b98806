"""Load an artifact: what is small is read and checked, what is large only where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hire_compiler.errors import ArtifactError, WeightError
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.artifact.contents import CONSTANTS
from hire_compiler.offline.disk.manifest import MANIFEST, File, Manifest, read_manifest
from hire_compiler.offline.disk.manifest_check import impossible
from hire_compiler.offline.disk.stored import Member, find_stored
from hire_compiler.offline.disk.tensor_files import read_tensors
from hire_compiler.offline.disk.tensor_header import read_header
from hire_compiler.offline.disk.tensors import from_tree


def load(path: Any) -> Artifact:
    """Load an artifact from its file or directory; its weights are read when they are needed.

    Raises:
      ArtifactError: it is missing, truncated, corrupted, or of another version; says which.
    """
    stored = find_stored(Path(path))
    listing = stored.member(MANIFEST)
    manifest = read_manifest(listing.read(), listing.name)
    if why := impossible(manifest):
        raise ArtifactError(f"{listing.name} is damaged: {why}")
    blobs: dict[str, bytes] = {}
    weights = {entry.stored for entry in manifest.platforms.values()}
    for name, expected in manifest.files.items():
        member = stored.member(name)
        if name in weights:
            _check_weights_belong(member, expected, manifest)
            continue
        member.check(expected)
        if name != CONSTANTS:
            blobs[name] = member.read()
    constants = read_tensors(stored.member(CONSTANTS)) if CONSTANTS in manifest.files else from_tree({})
    known = set(manifest.sources) | set(constants.specs)
    taken = {n for e in manifest.platforms.values() for p in e.preparations for n in (*p.inputs, *p.constants)}
    taken |= {name for entry in manifest.platforms.values() for name in entry.originals}
    if missing := taken - known:
        raise ArtifactError(f"{listing.name} is damaged: nothing holds {min(missing)!r}, which its programs take")
    return Artifact(manifest, blobs, constants, stored=stored)


def _check_weights_belong(member: Member, expected: File, manifest: Manifest) -> None:
    """What can be said of the stored weights without reading them: whose they are, their types, and their size."""
    try:
        header = read_header(member)
    except WeightError as error:
        raise ArtifactError(str(error)) from None
    if header.metadata.get("fingerprint") != manifest.fingerprint:
        raise ArtifactError(f"{member.name} holds the weights of another artifact, or its header is corrupted")
    platform = header.metadata.get("platform", "")
    if platform not in manifest.platforms or header.specs != manifest.platforms[platform].weights:
        raise ArtifactError(f"{member.name} does not hold the weights that the artifact's manifest lists")
    member.check_size(expected)
