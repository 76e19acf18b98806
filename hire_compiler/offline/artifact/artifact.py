"""An artifact: a rewritten model as programs and weights that run without this package.

On the disk it is a directory, or one file (an uncompressed zip archive): the step and prepare programs as
``jax.export`` blobs, the prepared weights as safetensors, the manifest, the plan and the report as JSON. Nothing in it
is pickled, and nothing but XLA programs is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from hire_compiler.errors import ArtifactError
from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.offline.artifact.contents import Contents
from hire_compiler.offline.artifact.save import save, save_upgraded
from hire_compiler.offline.artifact.step_weights import originals, prepared_tensors, stored_weights, weight_places
from hire_compiler.offline.disk.tensors import open_tensors
from hire_compiler.offline.source.devices import put
from hire_compiler.offline.source.naming import assign_names


@dataclass(eq=False)
class Artifact(Contents):
    """A rewritten model: what it holds, ready to be prepared, run and saved."""

    _loaded: dict[str, dict[str, jax.Array]] = field(default_factory=dict, repr=False)

    def step_program(self, platform: str | None = None, *, counted: bool = False) -> Any:
        """The step as a ``jax.export.Exported``: ``call(weights, *inputs)``.

        Args:
          platform: the default backend if None.
          counted: the variant that returns ``(results, {site: rows whose certificate held})``.
        """
        entry = self.platform(platform)
        return self.program(entry.check if counted and entry.check else entry.step)

    @cached_property
    def step(self) -> Any:
        """The step program for this process's platform, ready to call: ``step(weights, *inputs)``."""
        donated = tuple(position + 1 for position in self.manifest.donate)
        return jax.jit(self.step_program().call, donate_argnums=donated)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step on its inputs, with the artifact's own weights."""
        return self.step(self.weights(), *args, **kwargs)

    @property
    def is_prepared(self) -> bool:
        """Whether its weights are at hand, stored or given."""
        return self.given is not None or any(entry.stored for entry in self.manifest.platforms.values())

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
        made = prepared_tensors(self, self.platform(platform), originals(self), {}, new=new)
        places = weight_places(self, self.platform(platform))
        return {name: put(array, places.get(name)) for name, array in made}

    def weights(self, platform: str | None = None) -> dict[str, jax.Array]:
        """The step's weights: those stored in the artifact, else prepared from those given at rewrite."""
        entry, key = self.platform(platform), platform or jax.default_backend()
        if key not in self._loaded:
            at_hand = bool(entry.stored and self.stored)
            self._loaded[key] = stored_weights(self, entry) if at_hand else self.prepare(platform=platform)
        return self._loaded[key]

    def save(self, path: Any, *, overwrite: bool = False, new: bool = False, progress: Progress = no_progress) -> Path:
        """Write the artifact, whole or not at all; its weights are prepared on the way, one by one.

        Args:
          path: what to make: one file if its name ends with ``.hire``, else a directory. What replaces an artifact has
            the form of that.
          overwrite: it may take the place of another artifact (never of anything else).
          new: see :meth:`prepare`.
          progress: called with (what, done, of how many).

        Raises:
          HireError: the path exists and may not be replaced.
        """
        save(self, Path(path), overwrite=overwrite, new=new, progress=progress)
        return Path(path)

    def upgrade(self, path: Any, *, overwrite: bool = False, progress: Progress = no_progress) -> Path:
        """Write the artifact again with its programs exported anew on this JAX, from their portable forms.

        Args:
          path: as for :meth:`save`; with ``overwrite`` its own path.
          overwrite, progress: as for :meth:`save`.

        Raises:
          ArtifactError: it was not loaded from a file.
          HireError: this JAX does not read a portable form, or the path may not be replaced.
        """
        if self.stored is None:
            raise ArtifactError(f"{self.where} was made on this JAX: only one that was loaded can be upgraded")
        save_upgraded(self, Path(path), overwrite=overwrite, progress=progress)
        return Path(path)
