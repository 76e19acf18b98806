"""The manifest of an artifact: everything about it that is not a program or a tensor, as checked JSON."""

from __future__ import annotations

import hashlib
import json
import types
import typing
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from hire_compiler.authors.sampler import Sampling
from hire_compiler.errors import ArtifactError
from hire_compiler.offline.disk.promise import Promise
from hire_compiler.offline.disk.tensors import TensorSpec

FORMAT = "hire-artifact"
VERSION = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Input:
    """One array that the step takes beside its weights.

    Attributes:
      name: what the exported model called it.
      path: where it stands in the plain ``(args, kwargs)`` of the step, behind the weights.
      spec: its type.
      donated: the author gave its buffer away.
    """

    name: str
    path: tuple[str | int, ...]
    spec: TensorSpec
    donated: bool = False


@dataclass(frozen=True)
class PrepareProgram:
    """How some arrays of the step come from the model's weights.

    Attributes:
      key: what is prepared; equal keys mean equal arrays.
      program: the file of the program that makes them.
      inputs: names of the weights it takes, in order.
      constants: names of the tensors in the artifact's constants that it takes first.
      outputs: from the program's names to those of the step's weights.
      vectors: those of the inputs that are biases or masks alone: any number is right there, −inf too.
    """

    key: str
    program: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: dict[str, str]
    vectors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Platform:
    """The programs for one platform.

    Attributes:
      step: file of the step program.
      check: file of the step program that also counts certificates; '' if nothing is certified.
      weights: everything the step takes in its first argument; those that nothing prepares are the model's own.
      preparations: how the others are made.
      promise: how near to the original its results have to be.
      stored: file of the prepared weights; '' if they are not in the artifact.
    """

    step: str
    check: str
    weights: dict[str, TensorSpec]
    preparations: tuple[PrepareProgram, ...]
    promise: Promise
    stored: str = ""

    @property
    def originals(self) -> tuple[str, ...]:
        """The weights that the step reads as the model has them."""
        made = {name for preparation in self.preparations for name in preparation.outputs.values()}
        return tuple(name for name in self.weights if name not in made)


@dataclass(frozen=True)
class Portable:
    """A program of the artifact as a portable StableHLO artifact, and what else its ``jax.export`` blob says.

    Attributes:
      file: of the portable artifact.
      platforms: that the program was exported for, in order.
      kept: which of its leaves ``@main`` takes.
      results: where every result stands.
    """

    file: str
    platforms: tuple[str, ...]
    kept: tuple[int, ...]
    results: tuple[tuple[str | int, ...], ...]


@dataclass(frozen=True)
class File:
    """Size and hash of a file of the artifact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact holds.

    Attributes:
      name: of the model.
      source: hash of the module that was rewritten.
      versions: of the packages that wrote it, of StableHLO and of the calling convention of ``jax.export``, and until
        when JAX promises to load it.
      inputs, results: what the step takes beside the weights, and types of what it returns.
      sampling: the sampler that was folded in, if any.
      donate: positions of the step's arguments whose buffers the author gave away.
      sources: the model's weights by name.
      hashes: of those weights, once the artifact was prepared from them.
      mesh: names and sizes of the axes of the mesh that its programs run on; empty for one device.
      platforms: by name.
      files: every other file of the artifact.
      portable: by the file of a program, the same in a form that outlives JAX's promise for ``jax.export``.
      refused: by platform that was asked for and has no program, why not.
    """

    name: str
    source: str
    versions: dict[str, str]
    inputs: tuple[Input, ...]
    results: tuple[TensorSpec, ...]
    sampling: Sampling | None
    donate: tuple[int, ...]
    sources: dict[str, TensorSpec]
    platforms: dict[str, Platform]
    files: dict[str, File] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    mesh: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    portable: dict[str, Portable] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Equal for artifacts that take the same prepared weights."""
        platforms = {name: asdict(p) | {"stored": "", "promise": None} for name, p in self.platforms.items()}
        for preparation in (p for platform in platforms.values() for p in platform["preparations"]):
            del preparation["vectors"]  # says what is checked, not what is made
        return _hash({"source": self.source, "platforms": platforms})

    def to_bytes(self) -> bytes:
        """The JSON file."""
        content = {"format": FORMAT, "format_version": VERSION, **asdict(self), "fingerprint": self.fingerprint}
        return json.dumps(content | {"checksum": _hash(content)}, indent=1).encode()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(data: bytes, file: str) -> Manifest:
    """Read and check the manifest of an artifact.

    Args:
      data: contents of its file.
      file: what to call that in a message.

    Raises:
      ArtifactError: it is damaged, or of another version; says which.
    """
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ArtifactError(f"{file} is truncated or corrupted: it is no JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError(f"{file} is not the manifest of an artifact (its format is not {FORMAT!r})")
    if content.get("format_version") != VERSION:
        written = content.get("versions")
        by = f", by hire_compiler {written.get('hire_compiler')}" if isinstance(written, dict) else ""
        raise ArtifactError(
            f"{file} was written in format version {content.get('format_version')}{by}; this hire_compiler reads "
            f"version {VERSION}: rewrite the model again"
        )
    checksum = content.pop("checksum", None)
    if checksum != _hash(content):
        raise ArtifactError(f"{file} is corrupted: its checksum is wrong")
    try:
        return typing.cast(Manifest, _build(Manifest, content))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{file} is damaged: {error!r}") from None


def _has_default(one: Field[Any]) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def _build(kind: Any, value: Any) -> Any:
    """A dataclass, dict or tuple of such from what JSON makes of it. A field with a default may be missing."""
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        here = [f for f in fields(kind) if f.name in value or not _has_default(f)]
        return typing.cast(Any, kind)(**{f.name: _build(hints[f.name], value[f.name]) for f in here})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_build(args[0], item) for item in value)
    if origin is dict:
        return {str(key): _build(args[1], item) for key, item in value.items()}
    accepted = args if origin is types.UnionType else (kind,)
    if value is not None and (nested := [one for one in accepted if is_dataclass(one)]):
        return _build(nested[0], value)
    if not isinstance(value, accepted):
        raise TypeError(f"{value!r} where {kind} was expected")
    return value
