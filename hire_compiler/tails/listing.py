"""Lists of tokens in a tail: columns that a request names, among which the program chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op
from hire_compiler.patterns.operations.listed import Listed
from hire_compiler.proofs.enclosure import Bounded
from hire_compiler.proofs.interval import Enclosure, known, point
from hire_compiler.runtime.checks import all_of
from hire_compiler.tails.entries import parts_last
from hire_compiler.tails.spaces import Filled, Rows, Space, entries_of, first_of
from hire_compiler.tails.values import Plain, Wide, unless_sure


@dataclass(frozen=True, eq=False)
class _Named:
    """Columns were taken by their numbers: how what is known of them goes back to where they stood.

    Attributes:
      rows: which they were, int32 ``[b or 1, n]``.
      total: of how many.
    """

    rows: Any
    total: int

    def undone(self, array: Any, there: Filled) -> list[tuple[Any, Filled]]:
        """The largest of what is in a list for each column, minus infinity where it is in none."""
        count = self.rows.shape[1]
        batch = max(array.shape[0], self.rows.shape[0])
        rows, own = (jnp.broadcast_to(a, (batch, count)) for a in (self.rows, array[:, :count]))
        full = jnp.full((batch, self.total), -jnp.inf, array.dtype)
        return [(full.at[jnp.arange(batch)[:, None], rows].max(own), there)]


def chosen_list(op: Op, how: Listed, value: Wide, index: Plain, known_as: Rows | None = None) -> Wide:
    """What a gather picks of each batch row, as a vocabulary of its own.

    A candidate stands where the list names it first. If it is named again, it is no candidate there, but its bounds
    are those of the candidate.

    Args:
      known_as: the same list, where it was picked before: then both are one vocabulary.
    """
    rows, straight = _rows(op, how, value, index)
    own = _columns(value.space, rows) if known_as is None else known_as
    made = _picked(value, op.result.shape, how.axis, own, rows)
    if value.frame is not None:
        assert isinstance(value.frame.value, Wide)
        inner = _picked(value.frame.value, op.result.shape, how.axis, own, rows)
        made = replace(made, frame=replace(value.frame, value=inner))
    return made if straight is None else unless_sure(made, straight)


def _columns(space: Space, rows: Any) -> Rows:
    """The columns ``rows [b or 1, n]`` as a vocabulary of their own."""
    assert isinstance(space, Rows)
    count = rows.shape[1]
    step = _Named(rows, space.total)
    numbers = jnp.arange(count, dtype=jnp.int32)[None]
    ids = chosen = None
    if space.ids is not None:
        first = jnp.full((rows.shape[0], space.total), count, jnp.int32)
        first = first.at[jnp.arange(rows.shape[0])[:, None], rows].min(jnp.broadcast_to(numbers, rows.shape))
        ids = entries_of(first, space.ids)
        taken = entries_of(space.chosen, rows) & (entries_of(first, rows) == numbers)
        chosen = jnp.pad(taken, ((0, 0), (0, 1)))
    return Rows(
        ids, chosen, count, count + 1, pick=entries_of, first=first_of, path=(*space.path, step),
        shared=space.shared and rows.shape[0] == 1,
    )  # fmt: skip


def _rows(op: Op, how: Listed, value: Wide, index: Plain) -> tuple[Any, Any]:
    """Which rows of the weight are named, int32 ``[b or 1, n]``, and whether each batch row reads of its own logits."""
    numbers, vector, shape = _mlir.gather_numbers(op.ir), _mlir.gather_vector(op.ir), op.result.shape
    places, space = parts_last(index, vector), value.space
    assert isinstance(space, Rows)
    picked = [dim for dim in range(len(shape)) if dim not in numbers.offset_dims]

    def spread(part: int) -> Any:
        return lax.broadcast_in_dim(places[..., part].astype(jnp.int32), shape, picked)

    straight = None
    for dim, at in how.named:
        own = spread(numbers.start_index_map.index(dim))
        check = all_of(own == lax.broadcasted_iota(jnp.int32, shape, at))
        straight = check if straight is None else straight & check
    part = numbers.start_index_map.index(value.axis)
    one = all(size == 1 for dim, size in zip(picked, places.shape[:-1], strict=True) if dim != how.axis)
    rows = places[..., part].reshape(1, -1) if one else jnp.moveaxis(spread(part), how.axis, -1)
    rows = jnp.clip(rows.reshape(-1, shape[how.axis]).astype(jnp.int32), 0, value.shape[value.axis] - 1)
    return space.begin + (space.width - 1 - rows if space.flipped else rows), straight


def _picked(value: Wide, shape: tuple[int, ...], axis: int, own: Rows, rows: Any) -> Wide:
    """The bounds of what is picked."""
    space, outside = value.space, value.outside
    assert isinstance(space, Rows)
    assert outside is not None
    batch = prod(value.lead)

    def named(outer: Any, inner: Any | None) -> Any:
        if inner is not None:
            full = jnp.broadcast_to(outer, (batch, space.total))
            ids = jnp.broadcast_to(space.ids, (batch, space.ids.shape[1]))
            outer = full.at[jnp.arange(batch)[:, None], ids].set(jnp.broadcast_to(inner, ids.shape))
        elif outer.shape[1] == 1:
            return outer
        return jnp.pad(entries_of(outer, rows), ((0, 0), (0, 1)))

    sides = [outside] if value.inside is None else [outside, value.inside]
    inner = (None, None) if value.inside is None else (value.inside.bounds.low, value.inside.bounds.high)
    low = named(outside.bounds.low, inner[0])
    exact = known(*(side.bounds for side in sides))
    rounds = any(side.rounds for side in sides)
    bounds = point(low) if exact else Enclosure(low, named(outside.bounds.high, inner[1]))
    made = Bounded(bounds, value.dtype, rounds)
    candidates = None
    if value.inside is not None:
        ends = [entries_of(end, own.ids) if end.shape[1] > 1 else end for end in (bounds.low, bounds.high)[: 2 - exact]]
        candidates = Bounded(Enclosure(ends[0], ends[-1]), value.dtype, rounds)
    return replace(
        value, shape=shape, axis=axis, space=own, inside=candidates, outside=made, frame=None, bag=None, source=None
    )
