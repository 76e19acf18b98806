"""Loops of a tail over batch rows, or over the few tokens that it chooses: followed trip by trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.graph.graph import Block, Op, Value
from hire_compiler.patterns.operations.loop_counters import LoopCounters
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure, known, point
from hire_compiler.tails.entries import columns
from hire_compiler.tails.layout import chosen_rows
from hire_compiler.tails.values import Plain, Shadow, Wide, is_known

_MOST = 16  # trips: each is traced by itself


class Trips:
    """Which trip of which loop is being followed."""

    def __init__(self) -> None:
        self._counters = LoopCounters()
        self._now: dict[int, tuple[int, int]] = {}  # by loop body: trip, of how many

    def count(self, op: Op, wide: Sequence[Value]) -> int:
        """How many trips a loop has that can be followed one by one; 0 if it cannot.

        Args:
          wide: the values with a vocabulary that it reads.
        """
        body = op.blocks[1]
        inner = {id(arg): arg for arg in body.args}
        carried = any(value is operand for value in wide for operand in op.operands)
        if not carried and any(not _only_sliced(value, body) for value in wide):
            return 0
        for value in inner.values():
            found = (
                self._counters.values(value) if not value.shape and value.dtype.startswith(("int", "uint")) else None
            )
            if found is not None and len(found) <= _MOST:
                return len(found)
        return 0

    def enter(self, block: Block, trip: int, count: int) -> None:
        """From now on this trip is followed."""
        self._now[id(block)] = trip, count

    def number(self, value: Value) -> int | None:
        """The number that a scalar is in this trip, if it follows from counters and constants alone."""
        found = self._counters.values(value)
        if found is None:
            return None
        if len(found) == 1:
            return int(found[0])
        block = value.block if value.op is None else value.op.block
        while block is not None and id(block) not in self._now:
            block = None if block.owner is None else block.owner.block
        if block is None:
            return None
        trip, count = self._now[id(block)]
        return int(found[trip]) if len(found) == count else None

    def why_unknown(self, value: Value) -> str:
        """Which batch row it is that cannot be told."""
        found = self._counters.values(value)
        if found is None:
            return "a batch row that only the run knows"
        return f"one batch row after the other, in a loop of {len(found)} trips that are not followed one by one,"


def _only_sliced(value: Value, body: Block) -> bool:
    """Whether a loop reads of a value one part at a time."""
    inside = [use for use, _ in value.uses if use.holder_in(body) is not None]
    return all(use.name == "dynamic_slice" for use in inside)


def sliced(op: Op, operands: Sequence[Shadow], trips: Trips) -> Shadow:
    """A ``dynamic_slice``: of logits whole batch rows, or a few columns.

    Raises:
      Unbounded: anything else, or it is not known where.
    """
    value, *starts = operands
    shape = op.result.shape
    at = _places(op, starts)
    if isinstance(value, Plain):
        bounds = value.bounded.bounds
        ends = [lax.dynamic_slice(jnp.broadcast_to(end, value.shape), at, shape) for end in (bounds.low, bounds.high)]
        made = point(ends[0]) if known(bounds) else Enclosure(*ends)
        return Plain(shape, Bounded(made, value.dtype, value.bounded.rounds))
    if not isinstance(value, Wide):
        raise Unbounded("dynamic_slice of what is not known yet")
    rows = np.arange(int(np.prod(value.lead))).reshape(value.lead)
    lead = [dim for dim in range(len(value.shape)) if dim != value.axis]
    for axis, dim in enumerate(lead):
        if shape[dim] == value.shape[dim]:
            continue
        first = trips.number(op.operands[1 + dim])
        if first is None:
            raise Unbounded(f"dynamic_slice of {trips.why_unknown(op.operands[1 + dim])}")
        first = min(max(first, 0), value.shape[dim] - shape[dim])
        rows = rows.take(range(first, first + shape[dim]), axis=axis)
    kept = [size for dim, size in enumerate(shape) if dim != value.axis]
    whole = (*kept[: value.axis], value.shape[value.axis], *kept[value.axis :])
    if rows.size != np.prod(value.lead):
        batch = int(np.prod(value.lead))
        value = chosen_rows(replace(value, shape=whole, frame=None), rows.ravel(), batch)
    if shape[value.axis] == value.shape[value.axis]:
        return value
    return columns(value, at[value.axis], shape[value.axis], shape)


def _places(op: Op, starts: Sequence[Shadow]) -> list[Any]:
    """Where a slice begins in each dimension.

    Raises:
      Unbounded: that is not known.
    """
    if not all(isinstance(start, Plain) and is_known(start) for start in starts):
        raise Unbounded(f"{op.name} at a place that follows from the logits")
    return [start.bounded.bounds.low.reshape(()) for start in starts if isinstance(start, Plain)]


def updated(op: Op, operands: Sequence[Shadow]) -> Plain:
    """A ``dynamic_update_slice`` of numbers without a vocabulary.

    Raises:
      Unbounded: anything else.
    """
    value, update, *starts = operands
    if not isinstance(value, Plain) or not isinstance(update, Plain):
        raise Unbounded("dynamic_update_slice of logits")
    at = _places(op, starts)
    if value.bounded.rounds or update.bounded.rounds:
        raise Unbounded("dynamic_update_slice of narrow numbers that follow from the logits")

    def put(base: Any, new: Any) -> Any:
        return lax.dynamic_update_slice(
            jnp.broadcast_to(base, value.shape), jnp.broadcast_to(new, update.shape).astype(base.dtype), at
        )

    a, b = value.bounded.bounds, update.bounded.bounds
    low = put(a.low, b.low)
    bounds = point(low) if known(a, b) else Enclosure(low, put(a.high, b.high))
    return Plain(op.result.shape, Bounded(bounds, value.dtype))
