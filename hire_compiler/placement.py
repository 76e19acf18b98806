"""Where the arguments of a call lie, and of what type they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from hire_compiler import _mlir
from hire_compiler.errors import CaptureError


def placement_of(leaf: Any) -> Any:
    """Where an array lies, if on several devices; else None."""
    if _mlir.is_tracer(leaf) or not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return None
    sharding = leaf.sharding
    return sharding if sharding is not None and sharding.num_devices > 1 else None


def mesh_of(values: Sequence[Any]) -> Any:
    """The mesh on which arrays lie, or None."""
    placements = (placement_of(value) for value in values)
    return next((placement.mesh for placement in placements if isinstance(placement, NamedSharding)), None)


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
