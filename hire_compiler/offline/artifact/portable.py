"""Programs that outlive JAX's promise: a ``jax.export`` blob loads for six months, portable StableHLO for five years.

Beside every blob an artifact keeps the module inside it as a portable artifact. Together with the trees in the manifest
that is all it takes to export the program anew, on the JAX that is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.export
import numpy as np

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.errors import ArtifactError
from hire_compiler.offline.disk.manifest import Manifest, Portable
from hire_compiler.offline.disk.tensors import TensorSpec
from hire_compiler.offline.source.devices import Devices, devices_of
from hire_compiler.offline.source.source import Source
from hire_compiler.offline.source.trees import leaf_paths, nest


@dataclass(frozen=True)
class Call:
    """How one program of an artifact is called, as the manifest has it.

    Attributes:
      args, kwargs: trees of types.
      donated: positions of arguments whose buffers are given away.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    donated: tuple[int, ...] = ()

    @property
    def types(self) -> list[TensorSpec]:
        """Of every leaf, in order."""
        return [TensorSpec(tuple(leaf.shape), str(leaf.dtype)) for leaf in jax.tree.leaves((self.args, self.kwargs))]


def call_of(file: str, manifest: Manifest, constants: dict[str, TensorSpec]) -> Call:
    """How the program in a file is called.

    Args:
      constants: types of the tensors that preparing takes beside the weights.

    Raises:
      ArtifactError: nothing uses such a program.
    """
    for entry in manifest.platforms.values():
        if file in (entry.step, entry.check):
            weights = {name: spec.struct for name, spec in entry.weights.items()}
            args, kwargs = nested_inputs(manifest, [given.spec.struct for given in manifest.inputs])
            return Call((weights, *args), kwargs, tuple(position + 1 for position in manifest.donate))
        for preparation in entry.preparations:
            if file == preparation.program:
                known = manifest.sources | entry.weights | constants
                names = (*preparation.constants, *preparation.inputs)
                return Call(tuple(known[name].struct for name in names), {})
    raise ArtifactError(f"no platform of the artifact uses the program {file}")


def nested_inputs(manifest: Manifest, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Values in the order of ``manifest.inputs`` as positional and keyword arguments."""
    sides = []
    for side in (0, 1):
        chosen = [i for i, entry in enumerate(manifest.inputs) if entry.path[0] == side]
        paths = [manifest.inputs[i].path[1:] for i in chosen]
        sides.append(nest(paths, [values[i] for i in chosen]) if chosen else None)
    return sides[0] or (), sides[1] or {}


def check_role(exported: Any, portable: Portable, call: Call) -> None:
    """Refuse a program that is not the one the manifest describes: a step in the place of a preparation, say.

    Raises:
      ArtifactError: says what differs.
    """
    found = {
        "platforms": tuple(exported.platforms),
        "arguments": [TensorSpec(tuple(aval.shape), str(aval.dtype)) for aval in exported.in_avals],
        "tree of arguments": exported.in_tree,
        "results": tuple(leaf_paths(exported.out_tree)),
    }
    wanted = {
        "platforms": portable.platforms,
        "arguments": call.types,
        "tree of arguments": jax.tree.structure((call.args, call.kwargs)),
        "results": portable.results,
    }
    for what, value in found.items():
        if value != wanted[what]:
            raise ArtifactError(f"has other {what} than the manifest says: is it another program of the artifact?")


def renew(module: bytes, name: str, portable: Portable, call: Call, mesh: dict[str, int]) -> Any:
    """Export a program anew, on this JAX, from its portable form.

    Args:
      module: the portable artifact.
      name: of the function.
      portable, call: what the manifest says of it.
      mesh: of the devices it runs on; empty for one.

    Raises:
      HireError: this JAX does not read the portable form either, or it is another program than the manifest says.
    """
    source = _source(module, name, portable, call, prod(mesh.values()))
    programs = [source.program(platform) for platform in portable.platforms]
    _check_results(programs[0], portable)
    devices = devices_of(programs[0], source.devices)
    args, kwargs = _placed(call, portable, programs[0], devices)

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        return nest(portable.results, _run(programs, portable.platforms, [leaves[i] for i in portable.kept]))

    run.__name__ = name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        jitted = jax.jit(run, donate_argnums=call.donated)
        checks = allowed_calls(source.module)
        return jax.export.export(jitted, platforms=portable.platforms, disabled_checks=checks)(*args, **kwargs)


def allowed_calls(module: bytes) -> list[jax.export.DisabledSafetyCheck]:
    """Leave for custom calls that the author's program has: a kernel passes through as it is, byte for byte."""
    return [jax.export.DisabledSafetyCheck.custom_call(target) for target in sorted(_mlir.custom_call_targets(module))]


def _source(module: bytes, name: str, portable: Portable, call: Call, devices: int) -> Source:
    _mlir.check_version(module)
    with _mlir.fresh_context(), _mlir.silence():
        parsed = _mlir.parse_portable(module)
        _mlir.check_strings(parsed)
        main = _mlir.main_function(parsed)
        hidden = bool(main.type.inputs) and (
            _mlir.argument_attribute(main, 0, "jax.global_constant") == "_platform_index"
        )
        types = [_mlir.tensor_type(type_) for type_ in list(main.type.inputs)[int(hidden) :]]
        bytecode = _mlir.to_bytecode(parsed)
    wanted = [call.types[i] for i in portable.kept]
    if [TensorSpec(*type_) for type_ in types] != wanted:
        raise ArtifactError("takes other arguments than the manifest says: is it another program of the artifact?")
    count = len(call.types)
    return Source(
        name=name,
        module=bytecode,
        paths=tuple((0, i) for i in range(count)),
        names=tuple(f"argument {i}" for i in range(count)),
        types=tuple((spec.shape, spec.dtype) for spec in call.types),
        donated=(False,) * count,
        kept=portable.kept,
        platforms=portable.platforms,
        hidden_platform=hidden,
        devices=devices,
    )


def _check_results(program: Program, portable: Portable) -> None:
    if len(program.out_avals) != len(portable.results):
        raise ArtifactError("returns other results than the manifest says: is it another program of the artifact?")


def _placed(call: Call, portable: Portable, program: Program, devices: Devices) -> tuple[tuple[Any, ...], Any]:
    """The types of the arguments, where the program wants them."""
    leaves, tree = jax.tree.flatten((call.args, call.kwargs))
    first = len(program.constants)
    for place, leaf in enumerate(portable.kept):
        leaves[leaf] = devices.argument(first + place, call.types[leaf])
    args, kwargs = jax.tree.unflatten(tree, leaves)
    return args, kwargs


def _run(programs: Sequence[Program], platforms: Sequence[str], values: list[Any]) -> list[Any]:
    """The program of the platform that it is lowered for; one for all where they are the same."""

    def run(program: Program, *values: Any) -> list[Any]:
        return _mlir.run_module(program.module, program.out_avals, [*map(np.asarray, program.constants), *values])

    if len({program.module for program in programs}) == 1:
        return run(programs[0], *values)
    choices = {name: partial(run, program) for name, program in zip(platforms, programs, strict=True)}
    return list(jax.lax.platform_dependent(*values, **choices))
