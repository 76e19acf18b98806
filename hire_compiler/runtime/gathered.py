"""Products with the chosen rows of a matrix, in the form that each platform runs at the speed of its memory.

An index picks blocks of ``group`` adjacent rows. What the CPU forms avoid
(measured, docs/decisions): XLA:CPU fuses a gather into a matrix-vector product when the sum runs along the
gathered rows, which is what we want; when it runs across them, the fused loop is scalar and ten times slower than
memory. A gather that is not fused leaves the cache when it is large.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.narrow_rows import NarrowRows
from hire_compiler.runtime.target import Target, columns_dot, rows_dot, sum_type, take_rows

Matrix: TypeAlias = "jax.Array | NarrowRows"

_LANES = 8  # rows that are summed in one pass over a row of the result


def chosen_rows_dot(
    x: jax.Array, matrix: Matrix, index: jax.Array, group: int, target: Target, *, precise: bool = False
) -> jax.Array:
    """``x [b, d]`` times the rows of the chosen blocks, summed in float32.

    Args:
      matrix: ``[n · group, d]``, stored for the target.
      index: int32 ``[k]``: which blocks, in range.

    Returns:
      ``[b, k · group]``.
    """
    k, take = len(index), _taking(matrix, group, target)

    def product(some: jax.Array) -> jax.Array:
        return rows_dot(x, take(some), precise=precise, target=target)

    if target.gathered_rows is None or k * group <= target.gathered_rows:
        return product(index)
    if x.shape[0] == 1 and group == 1:  # fused whole
        return rows_dot(x, _taking_rows(matrix, target)(index), precise=precise)
    parts = _in_chunks(index, max(1, target.gathered_rows // group))
    return lax.map(product, parts).transpose(1, 0, 2).reshape(x.shape[0], -1)[:, : k * group]


def chosen_columns_dot(
    h: jax.Array, matrix: Matrix, index: jax.Array, group: int, target: Target, *, precise: bool = False
) -> jax.Array:
    """``h [b, k · group]`` times the rows of the chosen blocks of ``matrix``, summed in float32.

    Whole numbers are summed in int32.

    Returns:
      ``[b, width]``.
    """
    sums = sum_type(h, matrix)
    h = h.astype(sums)
    width, take = matrix.shape[1], _taking(matrix, group, target)

    def product(some: jax.Array, weights: jax.Array) -> jax.Array:
        return columns_dot(weights, take(some), precise=precise, target=target)

    if target.gathered_rows is None:
        return product(index, h)
    if h.shape[0] == 1:
        return _one_row_columns_dot(h, matrix, index, group, target)
    if 2 * len(index) * group <= target.gathered_rows:
        return product(index, h)
    parts = _in_chunks(index, max(1, target.gathered_rows // 2 // group))
    short = parts.size * group - h.shape[1]
    weights = jnp.pad(h, ((0, 0), (0, short))).reshape(h.shape[0], len(parts), -1)  # what fills up counts as 0
    nothing = jnp.zeros((h.shape[0], width), sums)
    return lax.fori_loop(0, len(parts), lambda i, total: total + product(parts[i], weights[:, i]), nothing)


def _one_row_columns_dot(h: jax.Array, matrix: Matrix, index: jax.Array, group: int, target: Target) -> jax.Array:
    """Sums eight rows at a time in one vectorised loop, and what is left with a product by ones.

    A plain product would run down the columns of the gathered rows, one scalar after the other. Of groups of rows, the
    eight lie an eighth of the chosen ones apart: eight streams each read their own blocks from end to end. Single rows
    are taken as they come; apart, they cost half as much again.
    """
    rows = (index[:, None] * group + jnp.arange(group, dtype=index.dtype)).reshape(-1)
    short = -len(rows) % _LANES
    lanes, weights = jnp.pad(rows, (0, short)), jnp.pad(h[0], (0, short))
    if group < _LANES:
        lanes, weights = (values.reshape(-1, _LANES).T for values in (lanes, weights))
    else:
        lanes, weights = (values.reshape(_LANES, -1) for values in (lanes, weights))
    take = _taking_rows(matrix, target)
    sums = jnp.zeros((lanes.shape[1], matrix.shape[1]), h.dtype)
    for lane in range(len(lanes)):  # not an iteration over arrays, which JAX's releases lower in different orders
        own, factors = (lax.index_in_dim(values, lane, keepdims=False) for values in (lanes, weights))
        sums += take(own).astype(h.dtype) * factors[:, None]
    return columns_dot(jnp.ones((1, len(sums)), h.dtype), sums)


_Take = Callable[[jax.Array], jax.Array]


def _taking(matrix: Matrix, group: int, target: Target) -> _Take:
    """Takes the rows of blocks: from ``[k]`` to ``[k · group, width]``."""
    if isinstance(matrix, NarrowRows):
        return partial(matrix.take, group=group)
    blocks, width = _blocks(matrix, group, target), matrix.shape[1]
    return lambda index: take_rows(blocks, index, target).reshape(-1, width)


def _taking_rows(matrix: Matrix, target: Target) -> _Take:
    """Takes single rows: from ``[k]`` to ``[k, width]``."""
    return matrix.take if isinstance(matrix, NarrowRows) else lambda index: take_rows(matrix, index, target)


def _blocks(matrix: jax.Array, group: int, target: Target) -> jax.Array:
    """``[n, …]``: everything that one entry of the index brings, in more than one dimension."""
    n, width = matrix.shape[0] // group, matrix.shape[1]
    if target.gathered_rows is not None and group == 1 and width % 2 == 0:
        # A gather of plain rows lets XLA:CPU transpose the whole matrix before a loop, and a dimension of length one
        # lets it copy.
        return matrix.reshape(n, 2, width // 2)
    return matrix.reshape(n, group, width)


def _in_chunks(index: jax.Array, at_most: int) -> jax.Array:
    """The index in equal parts, the last one filled up with block 0: ``[parts, size]``."""
    parts = -(-len(index) // at_most)
    size = -(-len(index) // parts)
    return jnp.pad(index, (0, parts * size - len(index))).reshape(parts, size)
