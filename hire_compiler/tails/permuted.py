"""The permutation that a sort is: sorted once more it gives the rank of every row, and by ranks values go back.

``argsort(argsort(-z)) < k`` keeps the best k. ``take_along_axis(kept, argsort(order))`` puts a mask of sorted logits
back in their own order. A rank is known between bounds: what is surely better stands before, what is surely worse
behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.runtime.checks import how_many
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.layout import turned
from hire_compiler.tails.order import above
from hire_compiler.tails.reductions import Part, parts
from hire_compiler.tails.spaces import Ranks, Rows
from hire_compiler.tails.values import Shadow, Sorting, Wide, positions


def permutation(value: Shadow) -> Sorting | None:
    """The sort whose permutation a value is, all of it."""
    if not isinstance(value, Wide) or value.sorting is None or not isinstance(value.space, Ranks):
        return None
    return value.sorting if value.space.width == value.sorting.values.space.width else None


def ranks(order: Wide, sorting: Sorting, elementwise: Elementwise, dtype: str) -> Wide:
    """Where each row of the vocabulary stands in the sorted array of the author."""
    values, space = sorting.values, order.space
    assert isinstance(space, Ranks)
    low, high, least = _ranks(values, sorting, elementwise)
    if values.frame is not None:
        assert isinstance(values.frame.value, Wide)
        again = _ranks(values.frame.value, sorting, elementwise)
        low, high, least = jnp.maximum(low, again[0]), jnp.minimum(high, again[1]), jnp.maximum(least, again[2])
    last = space.width - 1
    inner, outer = (low, high), (least, jnp.full_like(least, last))
    if space.rising:
        inner, outer = ((last - b, last - a) for a, b in (inner, outer))
    inside, outside = (
        Bounded(Enclosure(*(end.astype(dtype) for end in side)), dtype, False) for side in (inner, outer)
    )
    rest = None if values.outside is None else outside
    return replace(positions_of(order, sorting), inside=inside, outside=rest, cut=True)


def positions_of(order: Wide, sorting: Sorting) -> Wide:
    """What the permutation is when it is sorted: the positions that were carried along, as they stood."""
    values = sorting.values
    space = turned(values.space) if sorting.backwards else values.space
    return replace(positions(replace(values, space=space), order.dtype), shape=order.shape, axis=order.axis)


def _ranks(values: Wide, sorting: Sorting, elementwise: Elementwise) -> tuple[Any, Any, Any]:
    """Of each candidate the least and the largest rank, the best being 0, and the least of all other rows."""
    before, inner, rest = above(values, elementwise, down=sorting.down, stable=sorting.stable)
    better, worse = how_many(before, 1), how_many(before, 2)
    last = values.space.width - 1
    members = how_many(inner.counts, 1, keepdims=True)
    least = jnp.zeros_like(members)
    for part in rest:
        most = jnp.max(jnp.where(part.counts, part.high, -jnp.inf), axis=1, keepdims=True)
        surely = inner.low > most
        worse = worse + jnp.where(surely, last + 1 - members, 0)
        least = how_many(surely & inner.counts, 1, keepdims=True)
    return better, last - worse, least


def put_back(op: Op, value: Wide, places: Wide, elementwise: Elementwise) -> Wide:
    """Sorted values at places of which each row of the vocabulary has one of its own, as ranks are.

    Raises:
      Unbounded: the gather picks anything else.
    """
    space = value.space
    if not isinstance(space, Ranks) or not isinstance(places.space, Rows) or places.inside is None:
        raise Unbounded("gather at places that follow from the logits")
    if not _along(op, value, places):
        raise Unbounded("gather across batch rows at places that follow from the logits")
    inner, *rest = parts(value, elementwise)
    own, *others = parts(places, elementwise)
    ends = [_between(own.low[:, :, None], own.high[:, :, None], inner, rest, space)]
    if others:
        (other,) = others
        info = jnp.iinfo(other.low.dtype)
        first = jnp.min(jnp.where(other.counts, other.low, info.max), axis=1, keepdims=True)
        last = jnp.max(jnp.where(other.counts, other.high, info.min), axis=1, keepdims=True)
        ends.append(_between(first[:, :, None], last[:, :, None], inner, rest, space))
    found = [Bounded(Enclosure(*side), value.dtype, False) for side in ends]
    return Wide(op.result.shape, value.axis, places.space, found[0], found[1] if others else None)


def _along(op: Op, value: Wide, places: Wide) -> bool:
    """Whether a gather looks up one value of its own batch row for each place, as ``take_along_axis`` does."""
    numbers, vector = _mlir.gather_numbers(op.ir), _mlir.gather_vector(op.ir)
    lead = tuple(dim for dim in range(len(value.shape)) if dim != value.axis)
    beside = numbers.operand_batching_dims == lead == numbers.start_indices_batching_dims
    alone = numbers.start_index_map == (value.axis,) == numbers.collapsed_slice_dims and set(
        op.ints("slice_sizes")
    ) == {1}
    shaped = places.shape == (*value.shape, 1) and vector == len(value.shape) and places.axis == value.axis
    return beside and alone and shaped and op.result.shape == value.shape


def _between(low: Any, high: Any, inner: Part, rest: list[Part], space: Ranks) -> tuple[Any, Any]:
    """The least and the most of sorted values between two places, ``[batch, m, 1]`` each: ``[batch, m]``."""
    at = inner.at[:, None, :]
    here = (at >= low) & (at <= high)
    floats = jnp.issubdtype(inner.low.dtype, jnp.floating)
    info = None if floats or inner.low.dtype == bool else jnp.iinfo(inner.low.dtype)
    first, last = (jnp.inf, -jnp.inf) if floats else (True, False) if info is None else (info.max, info.min)
    least = jnp.min(jnp.where(here, inner.low[:, None, :], first), axis=2)
    most = jnp.max(jnp.where(here, inner.high[:, None, :], last), axis=2)
    for part in rest:
        beyond = (low < space.width - space.inner if space.rising else high >= space.inner)[:, :, 0]
        least = jnp.where(beyond, jnp.minimum(least, jnp.min(part.low, axis=1, keepdims=True)), least)
        most = jnp.where(beyond, jnp.maximum(most, jnp.max(part.high, axis=1, keepdims=True)), most)
    return least, most
