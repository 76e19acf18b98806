"""Whether any, whether all, how many: checks of an array made one.

A reduction of booleans or integers takes XLA:CPU a tenth to a third of a second to compile, one of float32 numbers a
hundredth, and both run at the speed of memory. A head makes a dozen of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...] | None

_COUNTED = 1 << 24  # float32 numbers count without a gap up to here


def any_of(check: jax.Array, axis: Axis = None, *, keepdims: bool = False) -> jax.Array:
    """Whether a check holds anywhere along the axes (None: all)."""
    return jnp.max(_ones(check), axis=axis, keepdims=keepdims, initial=0) > 0


def all_of(check: jax.Array, axis: Axis = None, *, keepdims: bool = False) -> jax.Array:
    """Whether a check holds everywhere along the axes (None: all)."""
    return ~any_of(~check, axis, keepdims=keepdims)


def how_many(check: jax.Array, axis: Axis = None, *, keepdims: bool = False) -> jax.Array:
    """How often a check holds along the axes (None: all), int32."""
    if check.size >= _COUNTED:
        return jnp.sum(check, axis=axis, keepdims=keepdims, dtype=jnp.int32)
    return jnp.sum(_ones(check), axis=axis, keepdims=keepdims).astype(jnp.int32)


def _ones(check: jax.Array) -> jax.Array:
    return check.astype(jnp.float32)
