"""Programs exported for several devices: their mesh, where arrays lie on it, and the devices to run on.

The mesh is known by its shape alone, so that rewriting needs no such devices; preparing and running do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.errors import ArtifactError, CaptureError
from hire_compiler.offline.disk.tensors import TensorSpec
from hire_compiler.passes.mesh.site_layouts import Placement
from hire_compiler.sharding.layout import Spec


@dataclass(frozen=True)
class Devices:
    """Where the arrays of an exported program lie.

    Attributes:
      mesh: names and sizes of its axes, in order; empty for a program of one device.
      arguments: for every argument of ``@main``, the axes that split each dimension.
    """

    mesh: Mapping[str, int]
    arguments: tuple[Spec, ...] = ()

    def argument(self, index: int, spec: TensorSpec) -> jax.ShapeDtypeStruct:
        """The type of an argument of ``@main``, placed."""
        return self.struct(spec, self.arguments[index] if self.mesh else None)

    def struct(self, spec: TensorSpec, axes: Spec | None) -> jax.ShapeDtypeStruct:
        """A type, placed: its first dimensions split by ``axes``; where XLA likes it if None."""
        if not self.mesh or axes is None:
            return spec.struct
        abstract = AbstractMesh(
            tuple(self.mesh.values()), tuple(self.mesh), axis_types=(AxisType.Auto,) * len(self.mesh)
        )
        sharding = NamedSharding(abstract, _partition(axes))
        return jax.ShapeDtypeStruct(spec.shape, spec.struct.dtype, sharding=sharding)

    def put(self, index: int, array: Any) -> jax.Array:
        """An argument of ``@main``, on the devices of this process.

        Raises:
          ArtifactError: they are too few.
        """
        if not self.mesh:
            return jax.numpy.asarray(array)
        mesh = mesh_here(self.mesh, "the original")
        return jax.device_put(array, NamedSharding(mesh, _partition(self.arguments[index])))


def devices_of(program: Program, count: int) -> Devices:
    """The mesh of an exported program.

    Args:
      count: over how many devices it was partitioned.

    Raises:
      CaptureError: it does not say how its arguments lie on them.
    """
    if count == 1:
        return Devices({})
    with _mlir.fresh_context():
        placement = Placement(_mlir.parse(program.module), program.arguments)
    refusal = placement.refusal
    if placement.mesh is not None and placement.mesh.devices != count:
        refusal = f"its mesh {placement.mesh} has {placement.mesh.devices}"
    if placement.mesh is None or refusal:
        raise CaptureError(
            f"{program.name} is partitioned over {count} devices, but {refusal}: export it with NamedShardings of one "
            "mesh"
        )
    return Devices(dict(placement.mesh.axes), tuple(placement.argument(i) for i in range(len(program.arguments))))


def mesh_here(axes: Mapping[str, int], what: str) -> Any:
    """The first devices of this process (of all processes, if there are several) as a mesh.

    Args:
      axes: names and sizes.
      what: the program that needs it, for the message.

    Raises:
      ArtifactError: there are too few.
    """
    needed, there = prod(axes.values()), jax.devices()
    if len(there) < needed:
        shape = "×".join(f"{name}={size}" for name, size in axes.items())
        raise ArtifactError(
            f"{what} was exported for {needed} devices (mesh {shape}), and here {_are(len(there))}: run it where there "
            f"are {needed}, or try it on CPU with XLA_FLAGS=--xla_force_host_platform_device_count={needed}"
        )
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types, devices=there[:needed])


def _are(count: int) -> str:
    return f"is 1 {jax.default_backend()} device" if count == 1 else f"are {count} {jax.default_backend()} devices"


def input_shardings(exported: Any, axes: Mapping[str, int], what: str) -> Any:
    """Where an exported program takes its arguments, in the tree ``(args, kwargs)``; None where it does not matter.

    Raises:
      ArtifactError: there are too few devices.
    """
    mesh = mesh_here(axes, what)
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.unflatten(exported.in_tree, [sharding or whole for sharding in exported.in_shardings_jax(mesh)])


def put(array: np.ndarray, sharding: Any) -> jax.Array:
    """An array on the devices of a sharding, each its own part; on the default device if None."""
    return jax.numpy.asarray(array) if sharding is None else jax.device_put(array, sharding)


def _partition(axes: Spec) -> PartitionSpec:
    return PartitionSpec(*(names or None for names in axes))
