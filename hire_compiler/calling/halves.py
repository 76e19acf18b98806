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
from hire_compiler.runtime.checks import all_of
from hire_compiler.runtime.materialize import materialize


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
        return bool(_only_halves(alike, {0: array}))


@partial(jax.jit, static_argnums=0)
def _only_halves(weight: Weight, given: dict[int, jax.Array]) -> jax.Array:
    bits = lax.bitcast_convert_type(materialize(weight, given), jnp.uint32)
    # Some processors flush a subnormal number when they convert it.
    subnormal = (bits & 0x7F800000 == 0) & (bits & 0x7FFFFFFF != 0)
    return all_of((bits & 0xFFFF == 0) & ~subnormal)
