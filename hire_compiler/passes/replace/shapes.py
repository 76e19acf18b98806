"""Shapes at the border: a product's input and result in the author's shape, and as ``[batch, rows]``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.patterns.region.dots import WeightDot


def canonical_input(x: jax.Array, dot: WeightDot) -> jax.Array:
    """The input of a product as ``[batch, d]``."""
    return x.transpose(dot.x_free + dot.x_contracting).reshape(dot.batch, dot.d)


def canonical_result(y: jax.Array, dot: WeightDot) -> jax.Array:
    """The result of a product as ``[batch, rows]``."""
    rows = len(dot.row_shape)
    if dot.rows_first:
        y = y.transpose(*range(rows, y.ndim), *range(rows))
    return y.reshape(dot.batch, dot.rows)


def take_batch_rows(array: jax.Array, rows: np.ndarray) -> jax.Array:
    """Rows ``[r]`` of an array ``[b, …]``; nothing is emitted where those are all."""
    return array if np.array_equal(rows, np.arange(array.shape[0])) else array[rows]


def restore_result(y: jax.Array, dot: WeightDot) -> jax.Array:
    """``[batch, rows]`` in the shape and type of the product's result."""
    free = len(dot.batch_shape)
    y = y.reshape(dot.batch_shape + dot.row_shape)
    if dot.rows_first:
        y = y.transpose(*range(free, y.ndim), *range(free))
    return y.astype(jnp.dtype(dot.result.dtype))
