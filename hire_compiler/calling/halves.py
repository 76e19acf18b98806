"""Float32 weights that hold bfloat16 numbers only (a checkpoint that was widened), checked entry by entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler import _mlir
from hire_compiler.errors import WeightError
from hire_compiler.graph.weight import Weight
from hire_compiler.runtime.materialize import materialize
from hire_compiler.runtime.pieces import all_in_pieces
from hire_compiler.runtime.target import Target, target_for


class NotHalvesError(WeightError):
    """A step was made for weights of bfloat16 numbers, and these are others, or not known: it has to be made anew."""


def holds_halves(weight: Weight, values: Sequence[Any] | Mapping[int, Any]) -> bool:
    """Whether a float32 weight, computed from the arguments ``values``, is at hand and fits in bfloat16."""
    array = values[weight.argument]
    if _mlir.is_tracer(array) or not isinstance(array, (jax.Array, np.ndarray)):
        return False
    if isinstance(array, jax.Array) and array.is_deleted():
        return False
    alike = replace(weight, name="", argument=0)  # layers that lie alike share a program
    with jax.core.eval_context():  # the numbers are known even while an outer jit is being traced
        return bool(_only_halves(alike, pieces_of(array), {0: array}))


@partial(jax.jit, static_argnums=(0, 1))
def _only_halves(weight: Weight, target: Target | None, given: dict[int, jax.Array]) -> jax.Array:
    return all_in_pieces(_is_half, materialize(weight, given), target if weight.is_view else None)


def _is_half(numbers: jax.Array) -> jax.Array:
    bits = lax.bitcast_convert_type(numbers, jnp.uint32)
    # Some processors flush a subnormal number when they convert it.
    subnormal = (bits & 0x7F800000 == 0) & (bits & 0x7FFFFFFF != 0)
    return (bits & 0xFFFF == 0) & ~subnormal


def pieces_of(array: Any) -> Target | None:
    """The target that says in how large pieces an array is looked at; None for all at once, on several devices."""
    spread = isinstance(array, jax.Array) and array.sharding.num_devices > 1
    return None if spread else target_for(jax.default_backend())
