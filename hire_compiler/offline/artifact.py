"""An artifact: a rewritten model as programs and weights that run without this package.

On the disk it is a directory: the step and prepare programs as ``jax.export`` blobs, the prepared weights as
safetensors, the manifest, the plan and the report as JSON. Nothing in it is pickled, and nothing but XLA programs is
ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from hire_compiler.errors import ArtifactError, WeightError
from hire_compiler.offline.atomic import new_directory
from hire_compiler.offline.manifest import MANIFEST, File, Manifest, Platform, read_manifest
from hire_compiler.offline.naming import assign_names
from hire_compiler.offline.tensors import Spec, Tensors, TensorWriter, digest, from_tree, open_tensors, spec_of
from hire_compiler.offline.trees import nest
from hire_compiler.prepared import check_finite

CONSTANTS = "constants.safetensors"
PLAN, REPORT = "plan.json", "report.json"

Progress = Callable[[str, int, int], None]  # what, done, of how many


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Say nothing."""


@dataclass(eq=False)
class Artifact:
    """A rewritten model.

    Attributes:
      manifest: what it holds.
      directory: where it was loaded from; None as long as it only lives in memory.
      blobs: contents of its small files, by name.
      given: the model's weights, where the caller handed them over.
      constants: tensors beside the weights that preparing takes (the module's own constants, calibration).
      check_weights: refuse weights that hold NaN or Inf.
    """

    manifest: Manifest
    blobs: dict[str, bytes]
    constants: Tensors
    given: Tensors | None = None
    directory: Path | None = None
    check_weights: bool = True
    _programs: dict[str, Any] = field(default_factory=dict)
    _loaded: dict[str, dict[str, jax.Array]] = field(default_factory=dict)

    # ------------------------------------------------------------------ programs

    def step_program(self, platform: str | None = None, *, counted: bool = False) -> Any:
        """The step as a ``jax.export.Exported``: ``call(weights, *inputs)``.

        Args:
          platform: the default backend if None.
          counted: the variant that returns ``(results, {site: rows whose certificate held})``.
        """
        entry = self.platform(platform)
        return self._program(entry.check if counted and entry.check else entry.step)

    @property
    def step(self) -> Any:
        """The step program for this process's platform, ready to call: ``step(weights, *inputs)``."""
        donated = tuple(position + 1 for position in self.manifest.donate)
        return jax.jit(self.step_program().call, donate_argnums=donated)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step on its inputs, with the artifact's own weights."""
        return self.step(self.weights(), *args, **kwargs)

    def platform(self, name: str | None = None) -> Platform:
        """The programs for a platform.

        Raises:
          ArtifactError: it has none for it.
        """
        wanted = name or jax.default_backend()
        alias = {"gpu": "cuda"}.get(wanted, wanted)
        if alias not in self.manifest.platforms:
            raise ArtifactError(
                f"{self._where} holds programs for {', '.join(self.manifest.platforms)}, none for {wanted}: rewrite "
                f"the model with platforms=({wanted!r}, …)"
            )
        return self.manifest.platforms[alias]

    def _program(self, file: str) -> Any:
        if file not in self._programs:
            try:
                self._programs[file] = jax.export.deserialize(bytearray(self.blobs[file]))
            except Exception as error:
                ours, theirs = jax.__version__, self.manifest.versions.get("jax")
                raise ArtifactError(
                    f"{self._where}/{file} was written by jax {theirs} and cannot be read by jax {ours}: "
                    f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
                ) from None
        return self._programs[file]

    @property
    def _where(self) -> str:
        return str(self.directory) if self.directory else f"the artifact of {self.manifest.name}"

    # ------------------------------------------------------------------ weights

    def with_weights(self, weights: Any, mapping: Mapping[str, str] | None = None) -> Artifact:
        """The same artifact, to be prepared from the model's weights.

        Args:
          weights: files or arrays, as for :func:`hire_compiler.rewrite`.
          mapping: from the names of ``manifest.sources`` to tensors, where names differ.

        Raises:
          WeightError: names or types do not fit.
        """
        given = assign_names(self.manifest.sources, open_tensors(weights), mapping or {})
        return replace(self, given=given, _loaded={})

    def prepare(self, weights: Any = None, *, platform: str | None = None, new: bool = False) -> dict[str, jax.Array]:
        """Make the step's weights from the model's.

        Args:
          weights: files or arrays, named as for :meth:`with_weights`; None for those given at rewrite.
          platform: whose form of the weights to make; the default backend if None.
          new: accept other numbers than the artifact was first prepared from (a fine-tuned model).

        Raises:
          WeightError: a weight is missing, has another type, holds NaN or Inf, or is one of another model.
        """
        if weights is not None:
            return self.with_weights(weights).prepare(platform=platform, new=new)
        tensors = self._originals()
        made = self.prepared_tensors(self.platform(platform), tensors, {}, new=new)
        return {name: jax.numpy.asarray(array) for name, array in made}

    def weights(self, platform: str | None = None) -> dict[str, jax.Array]:
        """The step's weights: those stored in the artifact, else prepared from those given at rewrite."""
        entry, key = self.platform(platform), platform or jax.default_backend()
        if key not in self._loaded:
            stored = bool(entry.stored and self.directory)
            self._loaded[key] = self._load(entry) if stored else self.prepare(platform=platform)
        return self._loaded[key]

    @property
    def is_prepared(self) -> bool:
        """Whether its weights are at hand, stored or given."""
        return self.given is not None or any(entry.stored for entry in self.manifest.platforms.values())

    def _originals(self) -> Tensors:
        tensors = self.given
        if tensors is None:
            if self.manifest.sources:
                raise WeightError(f"{self._where} holds no weights: prepare it with the model's weights first")
            tensors = from_tree({})
        for name, spec in self.manifest.sources.items():
            if name not in tensors.specs:
                raise WeightError(
                    f"{tensors.origin} lacks the weight {name!r} ({spec}), which {self._where} needs: these are the "
                    "weights of another model, or they need a map of names"
                )
            if tensors.specs[name] != spec:
                raise WeightError(
                    f"{name} is {tensors.specs[name]} in {tensors.origin}, and {self._where} needs {spec}: these are "
                    "the weights of another model"
                )
        return tensors

    def prepared_tensors(
        self, entry: Platform, tensors: Tensors, hashes: dict[str, str], *, new: bool = False
    ) -> Iterator[tuple[str, Any]]:
        """The step's weights one after another; at most one preparation's inputs and outputs are in memory.

        Args:
          entry: for which platform.
          tensors: the model's weights.
          hashes: filled with the hash of every weight that was read.
          new: accept other numbers than the artifact was first prepared from.
        """
        for preparation in entry.preparations:
            inputs = [self._read(tensors, name, hashes, new) for name in preparation.inputs]
            for name, array in zip(preparation.inputs, inputs, strict=True):
                if self.check_weights:
                    check_finite(array, name)
            constants = [self.constants.read(name) for name in preparation.constants]
            call = jax.jit(self._program(preparation.program).call)
            made = call(*constants, *inputs)
            del inputs, constants
            for name in list(made):
                yield preparation.outputs[name], np.asarray(made.pop(name))
        for name in entry.originals:
            yield name, self._read(tensors, name, hashes, new)

    def _read(self, tensors: Tensors, name: str, hashes: dict[str, str], new: bool) -> np.ndarray:
        if name in self.constants.specs:
            return self.constants.read(name)
        array = tensors.read(name)
        if spec_of(array) != self.manifest.sources[name]:
            raise WeightError(f"{name} of {tensors.origin} turned out to be {spec_of(array)}")
        if name not in hashes:
            hashes[name] = digest(array)
        known = self.manifest.hashes.get(name)
        if known is not None and known != hashes[name] and not new:
            raise WeightError(
                f"{name} of {tensors.origin} is not the weight that {self._where} was prepared from: these are the "
                "weights of another model; if it is the same model trained further, say so (new=True, --new-weights)"
            )
        return array

    def _load(self, entry: Platform) -> dict[str, jax.Array]:
        """Read the stored weights one by one, in the order of the file, and check them on the way."""
        assert self.directory is not None
        path, expected = self.directory / entry.stored, self.manifest.files[entry.stored]
        check_file(path, expected)
        tensors = open_tensors(path)
        if tensors.specs != entry.weights:
            raise ArtifactError(f"{path} does not hold the weights that the artifact's manifest lists")
        return {name: jax.numpy.asarray(tensors.read(name)) for name in tensors.specs}

    # ------------------------------------------------------------------ saving

    def save(self, path: Any, *, overwrite: bool = False, new: bool = False, progress: Progress = no_progress) -> Path:
        """Write the artifact as a directory, whole or not at all; its weights are prepared on the way, one by one.

        Args:
          path: the directory to make.
          overwrite: it may take the place of another artifact (never of anything else).
          new: see :meth:`prepare`.
          progress: called with (what, done, of how many).

        Raises:
          HireError: the path exists and may not be replaced.
        """
        destination = Path(path)
        with new_directory(destination, replaces=lambda old: overwrite and _is_artifact(old)) as directory:
            files = {name: _write(directory / name, data) for name, data in self.blobs.items()}
            if self.constants.specs:
                files[CONSTANTS] = self._write_tensors(
                    directory / CONSTANTS, self.constants.specs, lambda: self._all_constants(), {}
                )
            manifest = replace(self.manifest, files=files)
            platforms, hashes = {}, dict[str, str]()
            for name, entry in self.manifest.platforms.items():
                platforms[name] = self._save_weights(directory, name, entry, manifest, hashes, new, progress)
            manifest = replace(manifest, platforms=platforms, hashes=hashes or self.manifest.hashes)
            (directory / MANIFEST).write_bytes(manifest.to_bytes())
        return destination

    def _all_constants(self) -> Iterator[tuple[str, Any]]:
        return ((name, self.constants.read(name)) for name in self.constants.specs)

    def _save_weights(
        self,
        directory: Path,
        name: str,
        entry: Platform,
        manifest: Manifest,
        hashes: dict[str, str],
        new: bool,
        progress: Progress,
    ) -> Platform:
        if self.given is None and self.manifest.sources:
            return replace(entry, stored="")
        tensors, total = self._originals(), len(entry.weights)

        def made() -> Iterator[tuple[str, Any]]:
            for done, pair in enumerate(self.prepared_tensors(entry, tensors, hashes, new=new), start=1):
                yield pair
                progress(f"preparing weights for {name}", done, total)

        order = {n: entry.weights[n] for p in entry.preparations for n in p.outputs.values()}
        order |= {n: entry.weights[n] for n in entry.originals}
        file = f"weights.{name}.safetensors"
        metadata = {"format": "hire-weights", "platform": name, "fingerprint": manifest.fingerprint}
        manifest.files[file] = self._write_tensors(directory / file, order, made, metadata)
        return replace(entry, stored=file)

    @staticmethod
    def _write_tensors(
        path: Path, specs: dict[str, Spec], tensors: Callable[[], Iterator[tuple[str, Any]]], metadata: dict[str, str]
    ) -> File:
        with path.open("wb") as file:
            writer = TensorWriter(file, specs, metadata)
            for name, array in tensors():
                writer.write(name, array)
        return File(writer.nbytes, writer.sha256.hexdigest())

    # ------------------------------------------------------------------ what it says

    def report(self) -> dict[str, Any]:
        """The report of every platform, as written at rewrite."""
        content: dict[str, Any] = json.loads(self.blobs[REPORT])
        return content

    def abstract_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Types of the step's positional and keyword arguments, behind the weights."""
        return self.inputs([entry.spec.struct for entry in self.manifest.inputs])

    def inputs(self, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Values in the order of ``manifest.inputs`` as positional and keyword arguments."""
        sides = []
        for side in (0, 1):
            chosen = [i for i, entry in enumerate(self.manifest.inputs) if entry.path[0] == side]
            paths = [self.manifest.inputs[i].path[1:] for i in chosen]
            sides.append(nest(paths, [values[i] for i in chosen]) if chosen else None)
        return sides[0] or (), sides[1] or {}


def _is_artifact(path: Path) -> bool:
    try:
        return json.loads((path / MANIFEST).read_text()).get("format") == "hire-artifact"
    except (OSError, ValueError, AttributeError):
        return False


def _write(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    return File(len(data), hashlib.sha256(data).hexdigest())


def check_file(path: Path, expected: File) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
      ArtifactError: it is missing, truncated or corrupted; says which.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing from the artifact")
    size = path.stat().st_size
    if size != expected.bytes:
        what = "truncated" if size < expected.bytes else "corrupted"
        raise ArtifactError(f"{path} is {what}: it has {size} bytes of {expected.bytes}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.sha256:
        raise ArtifactError(f"{path} is corrupted: its checksum is wrong")


def load(path: Any) -> Artifact:
    """Load an artifact from its directory; its weights are read when they are needed.

    Raises:
      ArtifactError: it is missing, truncated, corrupted, or of another version; says which.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    blobs: dict[str, bytes] = {}
    stored = {entry.stored for entry in manifest.platforms.values()} | {CONSTANTS}
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise ArtifactError(f"{directory / MANIFEST} lists a file outside of the artifact: {name!r}")
        if name in stored - {CONSTANTS}:
            _check_weights_belong(directory / name, expected, manifest)
            continue
        check_file(directory / name, expected)
        if name not in stored:
            blobs[name] = (directory / name).read_bytes()
    named = {f for e in manifest.platforms.values() for f in (e.step, *(p.program for p in e.preparations))}
    if missing := sorted(named - set(blobs)):
        raise ArtifactError(f"{directory / MANIFEST} lists no file {missing[0]}")
    constants = open_tensors(directory / CONSTANTS) if CONSTANTS in manifest.files else from_tree({})
    return Artifact(manifest, blobs, constants, directory=directory)


def _check_weights_belong(path: Path, expected: File, manifest: Manifest) -> None:
    """What can be said of the stored weights without reading them: presence, size, and whose they are."""
    if not path.is_file():
        raise ArtifactError(f"{path} is missing from the artifact")
    if manifest.fingerprint.encode() not in _head(path):
        raise ArtifactError(f"{path} holds the weights of another artifact, or its header is corrupted")
    size = path.stat().st_size
    if size != expected.bytes:
        raise ArtifactError(f"{path} is truncated or corrupted: it has {size} bytes of {expected.bytes}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, 1 << 16))
