"""Entries of logits at places that a request names: what is known of each, whichever are candidates."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.runtime.checks import any_of
from hire_compiler.tails.spaces import Rows
from hire_compiler.tails.values import Plain, Wide, mapped

_FEW = 1024  # columns in a row that are read as numbers of their own


def gathered(op: Op, value: Wide, index: Plain) -> Plain:
    """What a gather picks at places that are known: one column each, of one batch row or of all.

    Raises:
      Unbounded: it picks more than one column at once.
    """
    numbers, sizes, shape = _mlir.gather_numbers(op.ir), op.ints("slice_sizes"), op.result.shape
    if value.axis not in numbers.start_index_map or sizes[value.axis] != 1:
        raise Unbounded("gather of several columns at once")
    vector = _mlir.gather_vector(op.ir)
    places = parts_last(index, vector)
    picked = [dim for dim in range(len(shape)) if dim not in numbers.offset_dims]  # dimensions of the indices
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    offsets = dict(zip([d for d in range(len(value.shape)) if d not in gone], numbers.offset_dims, strict=True))

    def along(dim: int) -> Any:
        """Where each entry stands in a dimension of the logits, in the shape of the result."""
        at = jnp.zeros((1,) * len(shape), jnp.int32)
        if dim in numbers.start_index_map:
            own = jnp.clip(places[..., numbers.start_index_map.index(dim)], 0, value.shape[dim] - sizes[dim])
            at = lax.broadcast_in_dim(own.astype(jnp.int32), shape, picked)
        if dim in numbers.operand_batching_dims:
            own = numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(dim)]
            at = lax.broadcasted_iota(jnp.int32, shape, picked[own - (vector < own)])
        return at + lax.broadcasted_iota(jnp.int32, shape, offsets[dim]) if dim in offsets else at

    rows = jnp.zeros((1,) * len(shape), jnp.int32)
    for dim, size in enumerate(value.shape):
        if dim != value.axis:
            rows = rows * size + along(dim)
    rows, at = (jnp.broadcast_to(a, shape).reshape(-1) for a in (rows, along(value.axis)))
    return _entries(value, rows, at, shape)


def parts_last(index: Plain, vector: int) -> Any:
    """Indices as a gather or a scatter reads them, their parts in the last dimension; they had them in ``vector``."""
    places = jnp.broadcast_to(index.bounded.bounds.low, index.shape)
    return places[..., None] if vector == len(index.shape) else jnp.moveaxis(places, vector, -1)


def columns(value: Wide, start: Any, count: int, shape: tuple[int, ...]) -> Plain:
    """A few columns in a row, from one on: ``shape`` is that of the logits but for them.

    Raises:
      Unbounded: they are many.
    """
    if count > _FEW:
        raise Unbounded("slice that takes a part of the vocabulary")
    batch = prod(value.lead)
    first = jnp.clip(jnp.asarray(start, jnp.int32), 0, value.shape[value.axis] - count)
    at = jnp.broadcast_to(first + jnp.arange(count, dtype=jnp.int32), (batch, count)).reshape(-1)
    rows = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), count)
    made = _entries(value, rows, at, (*value.lead, count)).bounded
    return Plain(shape, replace(made, bounds=mapped(made.bounds, lambda end: jnp.moveaxis(end, -1, value.axis))))


def _entries(value: Wide, rows: Any, at: Any, shape: tuple[int, ...]) -> Plain:
    """Entries ``at [m]`` of batch rows ``rows [m]``, in an author's shape of m numbers."""
    space, outside = value.space, value.outside
    if not isinstance(space, Rows) or outside is None:
        raise Unbounded("gather of several entries a batch row of what is sorted")
    own = space.begin + (space.width - 1 - at if space.flipped else at)
    ends = [_picked(end, rows, own) for end in (outside.bounds.low, outside.bounds.high)]
    rounds = outside.rounds
    if value.inside is not None:
        # Candidates are looked for, not scattered back: where the vocabulary is split, each shard looks by itself.
        ids = space.ids if space.ids.shape[0] == 1 else space.ids[rows]
        here = (ids == own[:, None]) & (ids < space.begin + space.width)
        inner = (value.inside.bounds.low, value.inside.bounds.high)
        ends = [_instead(here, end, rows, outer) for end, outer in zip(inner, ends, strict=True)]
        rounds |= value.inside.rounds
    return Plain(shape, Bounded(Enclosure(*(end.reshape(shape) for end in ends)), value.dtype, rounds))


def _instead(here: Any, inner: Any, rows: Any, outer: Any) -> Any:
    """What is known of a candidate, where one is ``here [m, c]``; else ``outer [m]``."""
    own = jnp.broadcast_to(inner if inner.shape[0] == 1 else inner[rows], here.shape)
    if own.dtype == bool:
        found = any_of(here & own, 1)
    else:
        found = jnp.sum(jnp.where(here, own, jnp.zeros((), own.dtype)), axis=1, dtype=own.dtype)
    return jnp.where(any_of(here, 1), found, outer)


def _picked(array: Any, rows: Any, at: Any) -> Any:
    """Entries of an array ``[batch or 1, n or 1]``."""
    rows = jnp.zeros_like(rows) if array.shape[0] == 1 else rows
    return array[rows, jnp.zeros_like(at) if array.shape[1] == 1 else at]
