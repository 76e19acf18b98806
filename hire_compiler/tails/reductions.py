"""Reductions of a tail over the vocabulary: extremes, sums, counts, running sums, the position of the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax.numpy as jnp

from hire_compiler.proofs.enclosure import NARROW, Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.runtime.certify import center_of, reaches
from hire_compiler.runtime.checks import any_of
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.spaces import Ranks, Rows
from hire_compiler.tails.values import Frame, Kth, Plain, Wide, row_number

_NOTHING = 2.0**-100
_HALF_UNIT = 2.0**-24
_WHOLE = 2.0**24  # float32 holds every whole number below


@dataclass(frozen=True)
class Part:
    """Bounds of some columns, ``[batch, m]``, which of them count, and where they stand in the author's array."""

    low: Any
    high: Any
    counts: Any
    at: Any


def parts(value: Wide, elementwise: Elementwise) -> list[Part]:
    """The bounds of a value: of the candidates, then of the others."""
    found = []
    for side in ("inside", "outside"):
        bounded = getattr(value, side)
        if bounded is not None:
            counts = value.space.members if side == "inside" else value.space.others
            bounds = elementwise.rounded(bounded)
            low, high, checked = jnp.broadcast_arrays(bounds.low, bounds.high, counts)
            found.append(Part(low, high, checked, value.space.places(side)))
    return found


def reduce(kind: str, value: Wide, elementwise: Elementwise, shape: tuple[int, ...]) -> Plain:
    """A ``max``, ``min``, ``sum``, ``and`` or ``or`` over the vocabulary."""
    made = row_number(value, reduced(kind, value, elementwise), value.dtype, shape)
    if kind == "maximum" and isinstance(value.space, Rows):
        first = jnp.zeros((prod(value.lead), 1), jnp.int32)
        made = replace(made, kth=Kth(value.as_source, first, first))
    frame = value.frame
    if frame is None or frame.kind != "scale" or kind not in ("maximum", "minimum", "add"):
        return made
    assert isinstance(frame.value, Wide)
    inner = row_number(value, reduced(kind, frame.value, elementwise), value.dtype, shape)
    return replace(made, frame=Frame("scale", frame.origin, frame.reach, inner))


def reduced(kind: str, value: Wide, elementwise: Elementwise) -> Enclosure:
    """Bounds of a reduction over the vocabulary, ``[batch, 1]``."""
    if value.dtype == "bool":
        kind = {"maximum": "or", "minimum": "and"}.get(kind, kind)
    found = parts(value if value.bag is None else value.bag, elementwise)
    if kind in ("and", "or"):
        together = jnp.all if kind == "and" else jnp.any
        low, high = (
            together(
                jnp.stack([together(jnp.where(p.counts, end(p), kind == "and"), axis=1, keepdims=True) for p in found]),
                axis=0,
            )
            for end in (_low, _high)
        )
        return Enclosure(low, high)
    if kind == "add":
        return _sum(found, value.dtype)
    extreme = jnp.max if kind == "maximum" else jnp.min
    floats = jnp.issubdtype(found[0].low.dtype, jnp.floating)
    info = jnp.finfo(jnp.float32) if floats else jnp.iinfo(found[0].low.dtype)
    ends = (-jnp.inf, jnp.inf) if floats else (info.min, info.max)
    neutral = ends[0] if kind == "maximum" else ends[1]
    low, high = (
        extreme(
            jnp.stack([extreme(jnp.where(p.counts, end(p), neutral), axis=1, keepdims=True) for p in found]), axis=0
        )
        for end in (_low, _high)
    )
    return Enclosure(low, high)


def _low(part: Part) -> Any:
    return part.low


def _high(part: Part) -> Any:
    return part.high


def _sum(found: list[Part], dtype: str) -> Enclosure:
    if dtype in NARROW:
        raise Unbounded(f"a sum in {dtype} over the vocabulary")
    low = sum(jnp.sum(jnp.where(p.counts, p.low, 0), axis=1, keepdims=True, dtype=p.low.dtype) for p in found)
    high = sum(jnp.sum(jnp.where(p.counts, p.high, 0), axis=1, keepdims=True, dtype=p.low.dtype) for p in found)
    if not jnp.issubdtype(found[0].low.dtype, jnp.floating):
        return _unless_it_wraps(Enclosure(low, high), found)
    return _off_by(Enclosure(low, high), found)


def _unless_it_wraps(bounds: Enclosure, found: list[Part]) -> Enclosure:
    """Bounds of a sum of whole numbers; anything where it may leave its type, unless each of them is known.

    What wraps does so in dense as well, and in whatever order, so the sum of known numbers is dense's own.
    """
    info = jnp.iinfo(bounds.low.dtype)
    sizes = [jnp.maximum(*(jnp.abs(end.astype(jnp.float32)) for end in (p.low, p.high))) for p in found]
    size = sum(jnp.sum(jnp.where(p.counts, s, 0), axis=1, keepdims=True) for p, s in zip(found, sizes, strict=True))
    open_ = [any_of((p.low != p.high) & p.counts, 1, keepdims=True) for p in found]
    anything = (size > 0.9 * info.max) & jnp.stack(open_).any(axis=0)
    return Enclosure(jnp.where(anything, info.min, bounds.low), jnp.where(anything, info.max, bounds.high))


def _off_by(bounds: Enclosure, found: list[Part]) -> Enclosure:
    """Bounds of a sum, for the roundings of dense's and of our own, in whatever order.

    To add a zero is exact, and to add next to nothing is off by no more than that.
    """
    sizes = [jnp.where(p.counts, jnp.maximum(jnp.abs(p.low), jnp.abs(p.high)), 0) for p in found]
    size = sum(jnp.sum(s, axis=1, keepdims=True) for s in sizes)
    terms = sum(jnp.sum(~(s <= _NOTHING), axis=1, keepdims=True, dtype=jnp.float32) for s in sizes) + 8
    count = sum(s.shape[1] for s in sizes)
    relative = terms * _HALF_UNIT / (1 - terms * _HALF_UNIT)
    room = 2.5 * relative * size * (1 + 2.0**-10) + count * 4 * _NOTHING
    low = bounds.low - room
    low = jnp.where((bounds.low >= 0) & (low < 0), 0.0, low)
    return Enclosure(low, bounds.high + room)


def running_sum(value: Wide, elementwise: Elementwise) -> Wide:
    """The sums of all columns up to each one, in the author's order after a sort."""
    made = _running(value, elementwise)
    frame = value.frame
    if frame is None or frame.kind != "scale":
        return made
    assert isinstance(frame.value, Wide)
    return replace(made, frame=replace(frame, value=_running(frame.value, elementwise)))


def _running(value: Wide, elementwise: Elementwise) -> Wide:
    if not isinstance(value.space, Ranks) or value.dtype in NARROW:
        raise Unbounded("a running sum of logits that are not sorted")
    found = parts(value, elementwise)
    inner, rest = found[0], found[1:]
    floats = jnp.issubdtype(inner.low.dtype, jnp.floating)
    batch = inner.low.shape[0]
    zero = jnp.zeros((batch, 1), inner.low.dtype)
    if value.bag is not None:
        rest = parts(value.bag, elementwise)[1:]
    below, above = (
        sum((jnp.sum(jnp.where(p.counts, sign(end(p), 0), 0), axis=1, keepdims=True) for p in rest), zero)
        for sign, end in ((jnp.minimum, _low), (jnp.maximum, _high))
    )
    whole = Enclosure(
        *(
            sum((jnp.sum(jnp.where(p.counts, end(p), 0), axis=1, keepdims=True) for p in rest), zero)
            for end in (_low, _high)
        )
    )
    if value.space.rising:
        low, high = (jnp.flip(jnp.cumsum(jnp.flip(end, 1), axis=1), 1) for end in (inner.low, inner.high))
        inside, outside = Enclosure(low + whole.low, high + whole.high), Enclosure(below, above)
    else:
        low, high = (jnp.cumsum(end, axis=1) for end in (inner.low, inner.high))
        inside, outside = Enclosure(low, high), Enclosure(low[:, -1:] + below, high[:, -1:] + above)
    if not floats:
        inside, outside = (_unless_it_wraps(bounds, [inner, *rest]) for bounds in (inside, outside))
    else:
        inside = _off_by(inside, [inner, *rest] if value.space.rising else [inner])
        outside = _off_by(outside, [inner, *rest])
    return Wide(
        value.shape,
        value.axis,
        value.space,
        Bounded(inside, value.dtype, False),
        Bounded(outside, value.dtype, False) if rest else None,
    )


def best(value: Wide, elementwise: Elementwise, shape: tuple[int, ...], dtype: str = "int32") -> tuple[Plain, Plain]:
    """The largest value and its position in the author's array: one number where it is proven, else any."""
    largest = row_number(value, reduced("maximum", value, elementwise), value.dtype, shape)
    position, sure = _position(value, elementwise)
    if value.frame is not None:
        assert isinstance(value.frame.value, Wide)
        framed, proven = _position(value.frame.value, elementwise)
        position, sure = jnp.where(sure, position, framed), sure | proven
    width = value.shape[value.axis]
    ends = (jnp.where(sure, position, end).astype(dtype) for end in (0, width - 1))
    return largest, row_number(value, Enclosure(*ends), dtype, shape)


def _position(value: Wide, elementwise: Elementwise) -> tuple[Any, Any]:
    """The position of the best candidate, and whether it is the best of all: ``[batch, 1]`` each."""
    inner, *rest = map(_as_floats, parts(value, elementwise))
    at = jnp.broadcast_to(inner.at, inner.low.shape)
    low, high = (jnp.where(inner.counts, end, -jnp.inf) for end in (inner.low, inner.high))
    center = center_of(low, high)
    # Of equal values the one that the author's array has first wins. Reductions alone, no sort: where the vocabulary is
    # split over devices, each of them is a few bytes between these.
    largest = jnp.max(center, axis=1, keepdims=True)
    position = jnp.min(jnp.where(center == largest, at, jnp.iinfo(at.dtype).max), axis=1, keepdims=True)
    own = (at == position) & inner.counts
    threshold = jnp.max(jnp.where(own, low, -jnp.inf), axis=1, keepdims=True)
    doubtful = jnp.where(own, ~jnp.isfinite(high), reaches(high, at, threshold, position) & inner.counts)
    sure = jnp.isfinite(threshold) & ~any_of(doubtful, 1, keepdims=True)
    for part in rest:
        reach = reaches(part.high, jnp.broadcast_to(part.at, part.high.shape), threshold, position) & part.counts
        sure = sure & ~any_of(reach, 1, keepdims=True)
    return position, sure


def _as_floats(part: Part) -> Part:
    """Truth values as numbers that are not zero, which may tie; whole numbers, NaN where a float cannot hold them."""
    if part.low.dtype == bool:
        return replace(part, low=part.low + jnp.float32(1), high=part.high + jnp.float32(1))
    if jnp.issubdtype(part.low.dtype, jnp.floating):
        return part
    low, high = (end.astype(jnp.float32) for end in (part.low, part.high))
    large = (jnp.abs(low) >= _WHOLE) | (jnp.abs(high) >= _WHOLE)
    return replace(part, low=jnp.where(large, jnp.nan, low), high=jnp.where(large, jnp.nan, high))
