"""What an artifact holds: programs and tensors, and what its manifest says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.export

from hire_compiler.errors import ArtifactError
from hire_compiler.offline.manifest import Manifest, Platform
from hire_compiler.offline.stored import Stored
from hire_compiler.offline.tensors import Tensors
from hire_compiler.offline.trees import nest

CONSTANTS = "constants.safetensors"
PLAN, REPORT = "plan.json", "report.json"


@dataclass(eq=False)
class Contents:
    """What an artifact holds.

    Attributes:
      manifest: what it says of itself.
      blobs: contents of its small files, by name.
      constants: tensors beside the weights that preparing takes (the module's own constants, calibration).
      given: the model's weights, where the caller handed them over.
      stored: where it was loaded from; None as long as it only lives in memory.
      check_weights: refuse weights that hold NaN or Inf.
    """

    manifest: Manifest
    blobs: dict[str, bytes]
    constants: Tensors
    given: Tensors | None = None
    stored: Stored | None = None
    check_weights: bool = True
    _programs: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return str(self.stored.path) if self.stored else f"the artifact of {self.manifest.name}"

    def platform(self, name: str | None = None) -> Platform:
        """The programs for a platform; for the default backend if None.

        Raises:
          ArtifactError: it has none for it.
        """
        wanted = name or jax.default_backend()
        alias = {"gpu": "cuda"}.get(wanted, wanted)
        if alias not in self.manifest.platforms:
            why = self.manifest.refused.get(alias) or f"rewrite the model with platforms=({wanted!r}, …)"
            there = ", ".join(self.manifest.platforms)
            raise ArtifactError(f"{self.where} holds programs for {there}, none for {wanted}: {why}")
        return self.manifest.platforms[alias]

    def program(self, file: str) -> Any:
        """One of its programs as a ``jax.export.Exported``.

        Raises:
          ArtifactError: this JAX cannot read it.
        """
        if file not in self._programs:
            try:
                self._programs[file] = jax.export.deserialize(bytearray(self.blobs[file]))
            except Exception as error:
                ours, theirs = jax.__version__, self.manifest.versions.get("jax")
                raise ArtifactError(
                    f"{self.where}/{file} was written by jax {theirs} and cannot be read by jax {ours}: "
                    f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
                ) from None
        return self._programs[file]

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
