"""A few numbers of each batch row: the best of a sort as numbers without a vocabulary, and such numbers as one."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp

from hire_compiler.graph.graph import Op
from hire_compiler.patterns.operations.reducers import position_of, reducer
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.reductions import best, reduce
from hire_compiler.tails.spaces import Ranks, Rows
from hire_compiler.tails.values import Plain, Shadow, Wide, canonical, mapped, plain

WHOLE = frozenset({"bool", "int32", "uint32", "int8", "int16", "uint8", "uint16"})
_MOST = 2048  # numbers that are put in an order


def is_few(known: object) -> bool:
    """Whether a value with a vocabulary is no more than the best of it: then it can be an end of the tail."""
    return isinstance(known, Wide) and isinstance(known.space, Ranks) and known.outside is None


def is_finished(known: Wide) -> bool:
    """Whether it is the best few tokens."""
    return is_few(known) and known.dtype in WHOLE


def as_plain(value: Wide) -> Plain:
    """The best few as numbers without a vocabulary: what stands at which rank is known no more."""
    space, inside = value.space, value.inside
    assert isinstance(space, Ranks)
    assert inside is not None

    def placed(end: Any) -> Any:
        full = jnp.broadcast_to(end, (space.batch, space.inner))
        full = jnp.flip(full, 1) if space.rising else full
        return jnp.moveaxis(full.reshape(*value.lead, -1), -1, value.axis)

    return Plain(value.shape, Bounded(mapped(inside.bounds, placed), inside.dtype, inside.rounds))


def in_order(value: Plain, axis: int) -> Wide:
    """Numbers along a dimension as a vocabulary, to be put in an order: each is compared with every other.

    Raises:
      Unbounded: they are many.
    """
    count = value.shape[axis]
    if count > _MOST:
        raise Unbounded(f"an order of {count} numbers that follow from the logits")
    return as_wide(value, axis)


def as_wide(value: Plain, axis: int) -> Wide:
    """Numbers along a dimension as a vocabulary of which all are candidates."""
    count = value.shape[axis]
    ids = jnp.arange(count, dtype=jnp.int32)[None]
    space = Rows(ids, jnp.ones((1, count), bool), count, count)
    like = Wide(value.shape, axis, space, value.bounded, None)

    def full(end: Any) -> Any:
        return jnp.broadcast_to(canonical(end, like), (prod(like.lead), count))

    bounds = value.bounded.bounds
    inside = Bounded(Enclosure(full(bounds.low), full(bounds.high)), value.dtype, value.bounded.rounds)
    return Wide(value.shape, axis, space, inside, None)


def reduced_plain(op: Op, value: Shadow, elementwise: Elementwise) -> Sequence[Shadow]:
    """A reduction of numbers without a vocabulary.

    Raises:
      Unbounded: it is none that can be followed.
    """
    kind, extreme, dims = reducer(op), position_of(op), op.ints("dimensions")
    if not isinstance(value, Plain):
        raise Unbounded("a reduction of logits that are not chosen yet")
    function = {"and": jnp.all, "or": jnp.any, "maximum": jnp.max, "minimum": jnp.min}.get(kind or "")
    if function is not None and not value.bounded.rounds:
        bounds = mapped(value.bounded.bounds, lambda end: function(jnp.broadcast_to(end, value.shape), axis=dims))
        return [plain(op.result.shape, bounds, value.dtype)]
    long = [dim for dim in dims if value.shape[dim] > 1] or list(dims[:1])
    if len(long) != 1 or (kind is None and extreme != "maximum"):
        raise Unbounded("a reduction of numbers without a vocabulary")
    wide, shape = as_wide(value, long[0]), op.results[0].shape
    if kind is None:
        return best(wide, elementwise, shape, op.results[1].dtype)
    return [reduce(kind, wide, elementwise, shape)]
