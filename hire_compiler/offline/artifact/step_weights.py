"""The weights of a step: made from the model's, one preparation at a time, or read where they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from hire_compiler.calling.prepared import check_finite
from hire_compiler.errors import ArtifactError, WeightError
from hire_compiler.offline.artifact.contents import Contents
from hire_compiler.offline.disk.manifest import Platform
from hire_compiler.offline.disk.tensor_files import digest, read_tensors
from hire_compiler.offline.disk.tensors import Tensors, from_tree, spec_of
from hire_compiler.offline.source.devices import input_shardings, put


def originals(contents: Contents) -> Tensors:
    """The model's weights as they were given.

    Raises:
      WeightError: none were, or one is missing or has another type.
    """
    tensors, sources = contents.given, contents.manifest.sources
    if tensors is None:
        if sources:
            raise WeightError(f"{contents.where} holds no weights: prepare it with the model's weights first")
        tensors = from_tree({})
    for name, spec in sources.items():
        if name not in tensors.specs:
            raise WeightError(
                f"{tensors.origin} lacks the weight {name!r} ({spec}), which {contents.where} needs: these are the "
                "weights of another model, or they need a map of names"
            )
        if tensors.specs[name] != spec:
            raise WeightError(
                f"{name} is {tensors.specs[name]} in {tensors.origin}, and {contents.where} needs {spec}: these are "
                "the weights of another model"
            )
    return tensors


def prepared_tensors(
    contents: Contents, entry: Platform, tensors: Tensors, hashes: dict[str, str], *, new: bool = False
) -> Iterator[tuple[str, Any]]:
    """The step's weights one after another; at most one preparation's inputs and outputs are in memory.

    Args:
      contents: of the artifact.
      entry: for which platform.
      tensors: the model's weights.
      hashes: filled with the hash of every weight that was read.
      new: accept other numbers than the artifact was first prepared from.

    Raises:
      WeightError: a weight holds NaN or Inf, or is one of another model.
    """
    for preparation in entry.preparations:
        inputs = [_read(contents, tensors, name, hashes, new) for name in preparation.inputs]
        for name, array in zip(preparation.inputs, inputs, strict=True):
            if contents.check_weights and name not in preparation.vectors:
                check_finite(array, name)
        constants = [contents.constants.read(name) for name in preparation.constants]
        program = contents.program(preparation.program)
        operands: list[Any] = [*constants, *inputs]
        del inputs, constants
        if contents.manifest.mesh:
            places, _ = input_shardings(program, contents.manifest.mesh, contents.where)
            operands = [put(array, place) for array, place in zip(operands, places, strict=True)]
        made = jax.jit(program.call)(*operands)
        del operands
        for name in list(made):
            yield preparation.outputs[name], np.asarray(made.pop(name))
    for name in entry.originals:
        yield name, _read(contents, tensors, name, hashes, new)


def _read(contents: Contents, tensors: Tensors, name: str, hashes: dict[str, str], new: bool) -> np.ndarray:
    if name in contents.constants.specs:
        return contents.constants.read(name)
    array = tensors.read(name)
    if spec_of(array) != contents.manifest.sources[name]:
        raise WeightError(f"{name} of {tensors.origin} turned out to be {spec_of(array)}")
    if name not in hashes:
        hashes[name] = digest(array)
    known = contents.manifest.hashes.get(name)
    if known is not None and known != hashes[name] and not new:
        raise WeightError(
            f"{name} of {tensors.origin} is not the weight that {contents.where} was prepared from: these are the "
            "weights of another model; if it is the same model trained further, say so (new=True, --new-weights)"
        )
    return array


def stored_weights(contents: Contents, entry: Platform) -> dict[str, jax.Array]:
    """Read the weights that are stored for a platform one by one, in the order of the file, and check them.

    Raises:
      ArtifactError: they are damaged, or others than the manifest lists.
    """
    assert contents.stored is not None
    member = contents.stored.member(entry.stored)
    member.check(contents.manifest.files[entry.stored])
    tensors = read_tensors(member)
    if tensors.specs != entry.weights:
        raise ArtifactError(f"{member.name} does not hold the weights that the artifact's manifest lists")
    places = weight_places(contents, entry)
    return {name: put(tensors.read(name), places.get(name)) for name in tensors.specs}


def weight_places(contents: Contents, entry: Platform) -> dict[str, Any]:
    """On a mesh, the sharding of each of the step's weights; of none on one device.

    Raises:
      ArtifactError: there are fewer devices than the mesh has.
    """
    if not contents.manifest.mesh:
        return {}
    (weights, *_), _ = input_shardings(contents.program(entry.step), contents.manifest.mesh, contents.where)
    return dict(weights)
