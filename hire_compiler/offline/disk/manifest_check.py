"""Whether a manifest whose checksum is right can be meant: a file that somebody edited, or wrote by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite, prod
from pathlib import Path

from hire_compiler.offline.disk.manifest import Manifest, Platform
from hire_compiler.offline.disk.tensors import SAFETENSORS, TensorSpec
from hire_compiler.runtime.target import JAX_PLATFORMS

_MOST = 1 << 62  # elements of an array, bytes of a file


def impossible(manifest: Manifest) -> str:
    """What cannot be in a manifest, the first that is found; or ''."""
    return next(_faults(manifest), "")


def _faults(manifest: Manifest) -> Iterator[str]:
    for name, spec in _specs(manifest):
        if spec.dtype not in SAFETENSORS or any(n < 0 for n in spec.shape) or prod(spec.shape) >= _MOST // 16:
            yield f"{name} cannot be {spec}"
    for name, file in manifest.files.items():
        if Path(name).name != name or not 0 <= file.bytes < _MOST or not re.fullmatch("[0-9a-f]{64}", file.sha256):
            yield f"a file {name!r} of {file.bytes} bytes cannot be"
    if not manifest.platforms or any(name not in JAX_PLATFORMS for name in manifest.platforms):
        there, known = ", ".join(manifest.platforms) or "nothing", ", ".join(JAX_PLATFORMS)
        yield f"it has programs for {there}, and known are {known}"
    positional = {given.path[1] for given in manifest.inputs if given.path and given.path[0] == 0 and given.path[1:]}
    if any(position not in positional for position in manifest.donate):
        yield f"it donates {list(manifest.donate)} of the arguments {sorted(map(str, positional))}"
    if any(len(given.path) < 2 or given.path[0] not in (0, 1) for given in manifest.inputs):
        yield "an input stands nowhere"
    if any(size < 1 for size in manifest.mesh.values()) or prod(manifest.mesh.values()) > 1 << 24:
        yield f"a mesh {dict(manifest.mesh)} cannot be"
    for name, entry in manifest.platforms.items():
        yield from _platform_faults(name, entry, manifest)
    for name, portable in manifest.portable.items():
        if portable.file not in manifest.files:
            yield f"the portable form of {name} is not among its files"
        if any(n < 0 for n in portable.kept) or len(set(portable.kept)) < len(portable.kept):
            yield f"{name} takes arguments {list(portable.kept)}"


def _platform_faults(name: str, entry: Platform, manifest: Manifest) -> Iterator[str]:
    programs = [entry.step, *([entry.check] if entry.check else []), *(p.program for p in entry.preparations)]
    for program in programs:
        if program not in manifest.files:
            yield f"it lists no file {program}"
        elif program not in manifest.portable:
            yield f"{program} has no portable form"
    if entry.stored and entry.stored not in manifest.files:
        yield f"it lists no file {entry.stored}"
    made = {output for preparation in entry.preparations for output in preparation.outputs.values()}
    if missing := made - set(entry.weights):
        yield f"{min(missing)} is prepared for {name}, and its step takes no such weight"
    promise = entry.promise
    if not all(isfinite(n) and n >= 0 for n in (promise.tolerance, promise.agreement, promise.recall, promise.error)):
        yield f"what it promises for {name} are no numbers"


def _specs(manifest: Manifest) -> Iterator[tuple[str, TensorSpec]]:
    yield from ((given.name, given.spec) for given in manifest.inputs)
    yield from ((f"result {i}", spec) for i, spec in enumerate(manifest.results))
    yield from manifest.sources.items()
    for entry in manifest.platforms.values():
        yield from entry.weights.items()
