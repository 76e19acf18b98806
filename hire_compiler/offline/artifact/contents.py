"""What an artifact holds: programs and tensors, and what its manifest says of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.export

from hire_compiler.capture.program import identifier
from hire_compiler.errors import ArtifactError, HireWarning
from hire_compiler.offline.artifact.portable import call_of, check_role, nested_inputs, renew
from hire_compiler.offline.disk.manifest import Manifest, Platform
from hire_compiler.offline.disk.stored import Stored
from hire_compiler.offline.disk.tensors import Tensors
from hire_compiler.offline.disk.versions import check_export_version
from hire_compiler.runtime.target import lowering_platform

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
        alias = lowering_platform(wanted)
        if alias not in self.manifest.platforms:
            why = self.manifest.refused.get(alias) or f"rewrite the model with platforms=({wanted!r}, …)"
            there = ", ".join(self.manifest.platforms)
            raise ArtifactError(f"{self.where} holds programs for {there}, none for {wanted}: {why}")
        return self.manifest.platforms[alias]

    def program(self, file: str) -> Any:
        """One of its programs as a ``jax.export.Exported``; made anew from its portable form if JAX refuses the blob.

        Raises:
          ArtifactError: it is another program than the manifest says, or this JAX reads neither form.
        """
        if file not in self._programs:
            try:
                self._programs[file] = self._exported(file)
            except ArtifactError as error:
                raise ArtifactError(f"{self.where}/{file} {error}") from None
        return self._programs[file]

    def _exported(self, file: str) -> Any:
        portable = self.manifest.portable.get(file)
        if portable is None or portable.file not in self.blobs:
            raise ArtifactError("has no portable form, which every program of an artifact has")
        call = call_of(file, self.manifest, self.constants.specs)
        try:
            exported = jax.export.deserialize(bytearray(self.blobs[file]))
            check_export_version(exported)
        except Exception as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            return self._renewed(file, why)
        check_role(exported, portable, call)
        return exported

    def _renewed(self, file: str, why: str) -> Any:
        ours, theirs = jax.__version__, self.manifest.versions.get("jax")
        refused = f"was written by jax {theirs} and cannot be read by jax {ours} ({why})"
        try:
            exported = self.renewed(file)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArtifactError(f"{refused}, and its portable form {reason}") from None
        warnings.warn(
            f"{self.where}/{file} {refused}: its portable form is used; hire-compiler upgrade writes it anew",
            HireWarning,
            stacklevel=4,
        )
        return exported

    def renewed(self, file: str) -> Any:
        """A program exported anew from its portable form, on this JAX.

        Raises:
          HireError: this JAX does not read that, or it is another program than the manifest says.
        """
        portable = self.manifest.portable[file]
        call = call_of(file, self.manifest, self.constants.specs)
        name = f"hire_{identifier(self.manifest.name)}"
        return renew(self.blobs[portable.file], name, portable, call, dict(self.manifest.mesh))

    def report(self) -> dict[str, Any]:
        """The report of every platform, as written at rewrite."""
        content: dict[str, Any] = json.loads(self.blobs[REPORT])
        return content

    def inputs(self, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Values in the order of ``manifest.inputs`` as positional and keyword arguments."""
        return nested_inputs(self.manifest, values)
