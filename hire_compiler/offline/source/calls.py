"""Calls of an exported model: its weights from files, its other inputs from files of one call each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from hire_compiler.offline.disk.tensors import TensorSpec, open_tensors
from hire_compiler.offline.source.devices import devices_of
from hire_compiler.offline.source.inputs import inputs_from
from hire_compiler.offline.source.naming import assign
from hire_compiler.offline.source.source import read_source


class Calls:
    """A program and the arguments of calls of it.

    Attributes:
      source: the export.
      program: of it, for the platform of this process.
    """

    def __init__(
        self,
        target: Any,
        weights: Any = None,
        mapping: Mapping[str, str] | None = None,
        dims: Mapping[str, int] | None = None,
    ) -> None:
        """Read the program; weights are read when they are asked for."""
        self.source = read_source(target, dims=dims)
        self.program = self.source.program(jax.default_backend())
        self._weights, self._mapping = weights, mapping
        self._held: tuple[list[Any], dict[int, Any]] | None = None

    def weights_alone(self) -> list[Any]:
        """The arguments of ``@main`` that are constants or weights; None in the place of the others."""
        constants, held = self._given()
        return [*constants, *(held.get(leaf) for leaf in self.source.kept)]

    def values(self, file: Any) -> tuple[list[Any], str]:
        """The arguments of ``@main`` for the inputs in a file (or a mapping), and what to call it in an error.

        Raises:
          WeightError: an input is missing, or of another type.
        """
        constants, held = self._given()
        source, batch = self.source, open_tensors(file)
        free = [leaf for leaf in source.kept if leaf not in held]
        specs = [TensorSpec(*source.types[leaf]) for leaf in free]
        inputs = dict(zip(free, inputs_from(batch, [source.names[leaf] for leaf in free], specs), strict=True))
        return [*constants, *(held[leaf] if leaf in held else inputs[leaf] for leaf in source.kept)], batch.origin

    def _given(self) -> tuple[list[Any], dict[int, Any]]:
        """The constants, and the weights by leaf, on the devices."""
        if self._held is not None:
            return self._held
        source, program = self.source, self.program
        tensors = None if self._weights is None else open_tensors(self._weights)
        names = {} if tensors is None else assign(source, tensors, self._mapping)
        devices, hidden = devices_of(program, source.devices), len(program.constants)
        held = {
            leaf: devices.put(hidden + source.kept.index(leaf), tensors.read(name))
            for leaf, name in names.items()
            if leaf in source.kept and tensors
        }
        self._held = [devices.put(i, constant) for i, constant in enumerate(program.constants)], held
        return self._held
