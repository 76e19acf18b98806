"""Where the arguments of a call lie, and of what type they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from hire_compiler import _mlir
from hire_compiler.errors import CaptureError


def placement_of(leaf: Any) -> Any:
    """Where an array lies, if on several devices; else None."""
    sharding = getattr(leaf, "sharding", None) if not _mlir.is_tracer(leaf) else None
    if type(sharding) is SingleDeviceSharding:  # by far the most, and asked of every argument in every call
        return None
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return None
    return sharding if sharding is not None and sharding.num_devices > 1 else None


def mesh_of(values: Sequence[Any]) -> Any:
    """The mesh on which arrays lie, or None."""
    placements = (placement_of(value) for value in values)
    return next((placement.mesh for placement in placements if isinstance(placement, NamedSharding)), None)


def on_automatic_axes(array: Any) -> Any:
    """The same array (or type), where it lies, with axes that XLA takes care of; no copy.

    On explicit axes every product of JAX code has to say how its result lies, which ours, written for any weight, does
    not. Tracers and what is no array on a mesh stay as they are.
    """
    sharding = None if _mlir.is_tracer(array) else getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return array
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return array
    automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    place = NamedSharding(automatic, sharding.spec, memory_kind=sharding.memory_kind)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place)
    parts = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, place, parts, dtype=array.dtype)


def traced_on_automatic_axes(function: Any, arrays: Sequence[Any]) -> Any:
    """Call a function inside an outer trace, explicit axes left to XLA meanwhile; its results are replicated."""
    meshes = [jax.typeof(array).sharding.mesh for array in arrays]
    explicit = next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)
    if explicit is None:
        return function(*arrays)
    with jax.sharding.use_abstract_mesh(explicit):
        return jax.sharding.auto_axes(function, out_sharding=PartitionSpec())(*arrays)


def device_count(values: Sequence[Any]) -> int:
    """Over how many devices the widest of the arrays is spread."""
    return max((placement.num_devices for value in values if (placement := placement_of(value))), default=1)


def abstract(leaf: Any, aval: Any) -> jax.ShapeDtypeStruct:
    """The type of an argument, with its sharding where it is spread over devices."""
    sharding = getattr(leaf, "sharding", None)
    spread = sharding is not None and sharding.num_devices > 1
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding if spread else None)


def aval_of(leaf: Any) -> Any:
    """The type of an argument.

    Raises:
      CaptureError: it is no array.
    """
    aval = getattr(leaf, "aval", None)
    if aval is not None:
        return aval
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.core.ShapedArray(leaf.shape, leaf.dtype)
    try:
        return jax.typeof(leaf)
    except TypeError:
        raise CaptureError(
            f"an argument holds a {type(leaf).__name__}, which is no array: mark it static in jax.jit "
            "(static_argnames), or close over it"
        ) from None
