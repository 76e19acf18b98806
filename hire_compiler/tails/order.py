"""Sorts, top-k and look-ups of a tail: what stands at a rank is known where bounds leave no doubt of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.runtime.checks import any_of, how_many
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.reductions import Part, parts, reduced
from hire_compiler.tails.spaces import Ranks, Rows
from hire_compiler.tails.values import Frame, Plain, Wide, split


def sort(
    values: Wide, others: Sequence[Plain | Wide], elementwise: Elementwise, *, down: bool, stable: bool = True
) -> list[Wide]:
    """Logits sorted, and what is sorted along with them."""
    if not isinstance(values.space, Rows):
        raise Unbounded("a sort of logits that are sorted already")
    if values.space.begin:
        raise Unbounded("a sort of a part of the vocabulary")
    batch, count = prod(values.lead), values.space.ids.shape[1]
    width = values.space.width
    space = Ranks(min(count, width), width, not down, batch, values.space.first)
    made = [replace(_sorted(values, space, elementwise), source=values.as_source, bag=values)]
    frame = values.frame
    if frame is not None and frame.kind == "scale":
        assert isinstance(frame.value, Wide)
        framed = _sorted(frame.value, space, elementwise)
        made[0] = replace(made[0], frame=Frame("scale", frame.origin, frame.reach, framed))
    order, sure = _order(values, elementwise, down=down, stable=stable)
    if frame is not None:
        assert isinstance(frame.value, Wide)
        again, proven = _order(frame.value, elementwise, down=down, stable=stable)
        order, sure = jnp.where(proven, again, order), sure | proven
    order, sure = order[:, : space.inner], sure[:, : space.inner]
    return made + [_carried(other, values, space, order, sure, elementwise) for other in others]


def _sorted(values: Wide, space: Ranks, elementwise: Elementwise) -> Wide:
    """The k-th largest of numbers between bounds lies between the k-th largest of the bounds."""
    inner, *rest = parts(values, elementwise)
    lows, highs = (jnp.where(inner.counts, end, -jnp.inf) for end in (inner.low, inner.high))
    lows, highs = (-jnp.sort(-end, axis=1)[:, : space.inner] for end in (lows, highs))
    nan = _any_nan(inner, *rest)
    outside = None
    if rest:
        most = jnp.max(jnp.where(rest[0].counts, rest[0].high, -jnp.inf), axis=1, keepdims=True)
        least = jnp.min(jnp.where(rest[0].counts, rest[0].low, jnp.inf), axis=1, keepdims=True)
        least = jnp.minimum(least, lows[:, -1:])
        highs = jnp.maximum(highs, most)
        if space.width > space.inner:
            ends = (jnp.where(nan, jnp.nan, end) for end in (least, jnp.maximum(most, -jnp.inf)))
            outside = Bounded(Enclosure(*ends), values.dtype, False)
    ends = (jnp.where(nan, jnp.nan, end) for end in (lows, highs))
    return Wide(values.shape, values.axis, space, Bounded(Enclosure(*ends), values.dtype, False), outside)


def _any_nan(*found: Part) -> Any:
    checks = [any_of((jnp.isnan(p.low) | jnp.isnan(p.high)) & p.counts, 1, keepdims=True) for p in found]
    return jnp.stack(checks).any(axis=0)


def above(values: Wide, elementwise: Elementwise, *, down: bool, stable: bool) -> tuple[Any, Part, list[Part]]:
    """Which candidates surely stand before which, bool ``[batch, c, c]``; their bounds, and those of the others."""
    inner, *rest = parts(values, elementwise)
    low, high = (jnp.where(inner.counts, end, -jnp.inf) for end in (inner.low, inner.high))
    at = jnp.broadcast_to(inner.at, low.shape)
    before = low[:, :, None] > high[:, None, :]  # i is surely better than j
    if stable:
        equal = (low[:, :, None] == high[:, None, :]) & (high[:, :, None] == low[:, None, :]) & (low[:, :, None] != 0)
        first = at[:, :, None] < at[:, None, :]
        before |= equal & (first if down else ~first & (at[:, :, None] != at[:, None, :]))
    return before & inner.counts[:, :, None] & inner.counts[:, None, :], replace(inner, low=low, high=high), rest


def _order(values: Wide, elementwise: Elementwise, *, down: bool, stable: bool) -> tuple[Any, Any]:
    """Which candidate stands at each rank, int32 ``[batch, c]``, and whether that is sure."""
    before, inner, rest = above(values, elementwise, down=down, stable=stable)
    better, worse = how_many(before, 1), how_many(before, 2)  # of each candidate
    members = how_many(inner.counts, 1, keepdims=True)
    sure = inner.counts & (better + worse == members - 1)
    for part in rest:
        most = jnp.max(jnp.where(part.counts, part.high, -jnp.inf), axis=1, keepdims=True)
        sure &= inner.low > most
    ranks = jnp.arange(inner.low.shape[1], dtype=jnp.int32)
    placed = (better[:, :, None] == ranks) & sure[:, :, None]
    return jnp.argmax(placed, axis=1).astype(jnp.int32), any_of(placed, 1)


def _carried(other: Plain | Wide, values: Wide, space: Ranks, order: Any, sure: Any, elementwise: Elementwise) -> Wide:
    """What stands beside the sorted values: known where the order is, else anything that it holds."""
    if isinstance(other, Wide):
        if not other.space.same(values.space) or other.axis != values.axis:
            raise Unbounded("a sort of values in different orders of the vocabulary")
        sides = other.inside, other.outside
    else:
        sides = split(other, values)
    assert isinstance(values.space, Rows)
    count = values.space.ids.shape[1]
    found = [elementwise.rounded(side) for side in sides if side is not None]
    anything = _anything_of(found, space.batch)

    def placed(end: Any, unsure: Any) -> Any:
        full = jnp.broadcast_to(end, (space.batch, count))
        return jnp.where(sure, jnp.take_along_axis(full, order, axis=1), unsure)

    inside = Enclosure(placed(found[0].low, anything.low), placed(found[0].high, anything.high))
    outside = Bounded(anything, other.dtype, False) if space.width > space.inner else None
    return Wide(values.shape, values.axis, space, Bounded(inside, other.dtype, False), outside)


def _anything_of(found: Sequence[Enclosure], batch: int) -> Enclosure:
    """Bounds of everything that some values hold; of whole numbers, which are positions, simply all there are."""
    dtype = found[0].low.dtype
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        return Enclosure(jnp.full((batch, 1), info.min, dtype), jnp.full((batch, 1), info.max, dtype))
    low = jnp.stack([jnp.broadcast_to(jnp.min(b.low, axis=1, keepdims=True), (batch, 1)) for b in found])
    high = jnp.stack([jnp.broadcast_to(jnp.max(b.high, axis=1, keepdims=True), (batch, 1)) for b in found])
    return Enclosure(low.min(axis=0), high.max(axis=0))


def look_up(value: Wide, index: Enclosure, elementwise: Elementwise) -> Enclosure:
    """The entry at a position (of the author's array) that is known between bounds, ``[batch, 1]`` each."""
    lows, highs = [], []
    for part in parts(value, elementwise):
        inside = part.counts & (part.at >= index.low) & (part.at <= index.high)
        floats = jnp.issubdtype(part.low.dtype, jnp.floating)
        info = None if floats else jnp.iinfo(part.low.dtype)
        first, last = (jnp.inf, -jnp.inf) if info is None else (info.max, info.min)
        if part.low.dtype == bool:
            raise Unbounded("a look-up of booleans")
        lows.append(jnp.min(jnp.where(inside, part.low, first), axis=1, keepdims=True))
        highs.append(jnp.max(jnp.where(inside, part.high, last), axis=1, keepdims=True))
    bounds = Enclosure(jnp.stack(lows).min(axis=0), jnp.stack(highs).max(axis=0))
    if value.bag is None or value.source is None or not isinstance(value.space, Ranks):
        return bounds
    # As they were sorted (no operation since), the last of all, where a request keeps all of them, is the least of all.
    least, last = reduced("minimum", value, elementwise), 0 if value.space.rising else value.space.width - 1
    all_of_them = (index.low == last) & (index.high == last)
    return Enclosure(jnp.where(all_of_them, least.low, bounds.low), jnp.where(all_of_them, least.high, bounds.high))


def top_k(values: Wide, positions: Wide, k: int, elementwise: Elementwise, *, stable: bool = True) -> list[Wide]:
    """The best k and their positions."""
    return [_first(wide, k) for wide in sort(values, [positions], elementwise, down=True, stable=stable)]


def _first(value: Wide, k: int) -> Wide:
    space = value.space
    assert isinstance(space, Ranks)
    assert value.inside is not None
    inner = min(space.inner, k)
    ends = (lax.slice_in_dim(end, 0, inner, axis=1) for end in (value.inside.bounds.low, value.inside.bounds.high))
    shape = tuple(k if i == value.axis else size for i, size in enumerate(value.shape))
    made = replace(
        value,
        shape=shape,
        space=replace(space, inner=inner, width=k),
        inside=replace(value.inside, bounds=Enclosure(*ends)),
        outside=value.outside if k > inner else None,
        bag=None,
    )
    if value.frame is None:
        return made
    assert isinstance(value.frame.value, Wide)
    return replace(made, frame=replace(value.frame, value=_first(value.frame.value, k)))
