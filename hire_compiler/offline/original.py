"""The model that an artifact was made from, run beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.errors import ArtifactError, WeightError
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.disk.tensor_files import digest
from hire_compiler.offline.disk.tensors import Tensors, open_tensors
from hire_compiler.offline.source.devices import devices_of
from hire_compiler.offline.source.naming import assign
from hire_compiler.offline.source.sampled import fold_sampler
from hire_compiler.offline.source.source import Source, read_source
from hire_compiler.offline.source.trees import nest


def source_of(artifact: Artifact, original: Any, dims: Mapping[str, int] | None) -> Source:
    """The model that an artifact was made from, with its sampler.

    Raises:
      ArtifactError: it is another one.
    """
    source = read_source(original, dims=dims)
    if source.digest != artifact.manifest.source:
        raise ArtifactError(f"{artifact.manifest.name!r} was rewritten from another model than {source.name}")
    sampling = artifact.manifest.sampling
    return source if sampling is None else fold_sampler(source, sampling)


class Original:
    """The original as a function of the artifact's inputs.

    Raises:
      ArtifactError: it takes something that is neither a weight nor an input.
      WeightError: a weight is not the one that the artifact was made from.
    """

    def __init__(self, source: Source, artifact: Artifact, weights: Any, mapping: Mapping[str, str] | None) -> None:
        program = source.program(jax.default_backend())
        devices = devices_of(program, source.devices)
        tensors = None if weights is None else open_tensors(weights)
        given = {} if tensors is None else assign(source, tensors, mapping)
        named = {entry.name: position for position, entry in enumerate(artifact.manifest.inputs)}
        first = len(program.constants)
        self._operands: list[Any] = [devices.put(i, constant) for i, constant in enumerate(program.constants)]
        self._places: dict[int, int] = {}  # of the operands, which input each is
        for i, (argument, leaf) in enumerate(zip(program.arguments[first:], source.kept, strict=True), start=first):
            value = None
            if argument.name in named:
                self._places[i] = named[argument.name]
            elif leaf in given and tensors is not None:
                value = devices.put(i, _own_weight(artifact, argument.name, tensors, given[leaf]))
            else:
                raise ArtifactError(
                    f"the original takes {argument.name}, which is neither among the weights nor an "
                    "input: give the model's own weights (--weights)"
                )
            self._operands.append(value)
        self._order = _result_order(source, len(program.out_avals))

        def flat(*values: Any) -> list[Any]:
            return _mlir.run_module(program.module, program.out_avals, values)

        donated = [i for i in self._places if program.arguments[i].donated]
        self._call = jax.jit(flat, donate_argnums=donated)

    def ready(self, values: Sequence[Any]) -> Callable[[], Any]:
        """A run on copies of the inputs, brought to the device now; its results are in the artifact's order."""
        operands = list(self._operands)
        for i, place in self._places.items():
            operands[i] = jnp.array(values[place])
        jax.block_until_ready(operands)

        def run() -> list[Any]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
                results = self._call(*operands)
            return [results[i] for i in self._order]

        return run


def _own_weight(artifact: Artifact, name: str, tensors: Tensors, tensor: str) -> np.ndarray:
    """A weight for the original, which has to be the one that the artifact was made from."""
    array, known = tensors.read(tensor), artifact.manifest.hashes.get(name)
    if known is None and artifact.given is not None and name in artifact.given.specs:
        known = digest(artifact.given.read(name))
    if known is not None and known != digest(array):
        raise WeightError(
            f"{tensor} of {tensors.origin} is not the weight that {artifact.where} was prepared from: a comparison "
            "would say nothing; give the artifact's own weights, or prepare it with these first"
        )
    return array


def _result_order(source: Source, count: int) -> list[int]:
    """Plain dicts are flattened by sorted keys, other nodes in the order of their fields."""
    if source.out_paths is None:
        return list(range(count))
    return list(jax.tree.leaves(nest(source.out_paths, list(range(count)))))
