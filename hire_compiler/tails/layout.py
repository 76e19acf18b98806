"""Layout operations of a tail: values without a vocabulary move freely, those with one keep it in one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.graph.graph import Op
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.tails.values import Frame, Kth, Plain, Ranks, Rows, Shadow, Unknown, Wide, mapped


class Mixed(Unbounded):
    """Batch rows are mixed, which can be followed where all of them have the same candidates."""


LAYOUT = frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse"})


def move(op: Op, value: Shadow) -> Shadow:
    """A layout operation.

    Raises:
      Unbounded: it takes the vocabulary apart, or mixes batch rows.
    """
    shape = op.result.shape
    if isinstance(value, Unknown):
        return Unknown(shape, value.dtype)
    if isinstance(value, Plain):
        moved = replace(value, shape=shape, bounded=_each(value.bounded, lambda end: _moved(op, end, value.shape)))
        return moved if value.frame is None else replace(moved, frame=_framed(op, value.frame))
    made = _MOVES[op.name](op, replace(value, frame=None))
    if isinstance(made, Wide) and made.bag is not None and made.shape != value.shape:
        made = replace(made, bag=None)
    fewer = isinstance(made, Wide) and prod(made.lead) != prod(value.lead)
    if value.frame is None or fewer or (isinstance(made, Plain) and value.frame.kind == "shift"):
        return made
    return replace(made, frame=_framed(op, value.frame))


def _framed(op: Op, frame: Frame) -> Frame:
    moved = move(op, frame.value)
    assert not isinstance(moved, Unknown)
    return replace(frame, value=moved)


def _each(bounded: Bounded, function: Any) -> Bounded:
    return replace(bounded, bounds=mapped(bounded.bounds, function))


def _moved(op: Op, array: Any, shape: tuple[int, ...]) -> Any:
    """An array in which a length of 1 may stand for that of ``shape``."""
    if op.name == "broadcast_in_dim":
        dims, rank = op.ints("broadcast_dimensions"), len(op.result.shape)
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        expanded = [1] * rank
        for axis, dim in enumerate(dims):
            expanded[dim] = array.shape[axis]
        return array.transpose(order).reshape(expanded)
    if op.name == "transpose":
        return array.transpose(op.ints("permutation"))
    if op.name == "reverse":
        return jnp.flip(array, [i for i in op.ints("dimensions") if array.shape[i] > 1])
    if op.name == "slice":
        bounds = zip(op.ints("start_indices"), op.ints("limit_indices"), op.ints("strides"), strict=True)
        whole = [size == 1 < wanted for size, wanted in zip(array.shape, shape, strict=True)]
        return array[tuple(slice(None) if w else slice(*b) for w, b in zip(whole, bounds, strict=True))]
    if array.size == 1:
        return array.reshape((1,) * len(op.result.shape))
    return jnp.broadcast_to(array, shape).reshape(op.result.shape)


def _broadcast(op: Op, value: Wide) -> Wide:
    dims = op.ints("broadcast_dimensions")
    lead = [dims[i] for i in range(len(dims)) if i != value.axis]
    grown = [op.result.shape[dim] != size for dim, size in zip(dims, value.shape, strict=True)]
    new = [size for i, size in enumerate(op.result.shape) if i not in dims]
    if any(grown) or lead != sorted(lead) or prod(new) != 1:
        raise Unbounded("broadcast_in_dim of logits along a new dimension")
    return replace(value, shape=op.result.shape, axis=dims[value.axis])


def _reshape(op: Op, value: Wide) -> Wide:
    shape, before = op.result.shape, prod(value.shape[: value.axis])
    for axis, size in enumerate(shape):
        if size == value.shape[value.axis] and prod(shape[:axis]) == before:
            return replace(value, shape=shape, axis=axis)
    raise Unbounded("reshape that takes the vocabulary apart")


def _transpose(op: Op, value: Wide) -> Wide:
    order = op.ints("permutation")
    lead = [i for i in order if i != value.axis and value.shape[i] > 1]
    if lead != sorted(lead):
        raise Unbounded("transpose of batch dimensions")
    return replace(value, shape=op.result.shape, axis=order.index(value.axis))


def _reverse(op: Op, value: Wide) -> Wide:
    dims = [i for i in op.ints("dimensions") if value.shape[i] > 1]
    if not dims:
        return value
    if dims != [value.axis]:
        raise Unbounded("reverse of batch dimensions")
    return replace(value, space=turned(value.space))


def turned(space: Rows | Ranks) -> Rows | Ranks:
    """The same columns in the opposite order."""
    if isinstance(space, Rows):
        return replace(space, flipped=not space.flipped)
    return replace(space, rising=not space.rising)


def _slice(op: Op, value: Wide) -> Wide | Plain:
    bounds = list(zip(op.ints("start_indices"), op.ints("limit_indices"), op.ints("strides"), strict=True))
    start, stop, stride = bounds.pop(value.axis)
    if any((a, b, s) != (0, n, 1) for (a, b, s), n in zip(bounds, value.lead, strict=True) if n > 1):
        value = _some_batch_rows(value, bounds)
    if stride != 1:
        raise Unbounded("slice that leaves out rows of the vocabulary")
    if isinstance(value.space, Rows):
        return _fewer_rows(op, value, value.space, start, stop)
    return _fewer_ranks(op, value, value.space, start, stop)


def _some_batch_rows(value: Wide, bounds: Sequence[tuple[int, int, int]]) -> Wide:
    """Some of the batch rows: these meet others (guidance), so all need to have the same candidates."""
    if not isinstance(value.space, Rows) or not value.space.shared:
        raise Mixed("slice that takes batch rows apart")
    kept = np.arange(prod(value.lead)).reshape(value.lead)[tuple(slice(*bound) for bound in bounds)]

    def some(bounded: Bounded | None) -> Bounded | None:
        return bounded and _each(bounded, lambda end: end if end.shape[0] == 1 else end[kept.ravel()])

    shape = (*kept.shape[: value.axis], value.shape[value.axis], *kept.shape[value.axis :])
    return replace(value, shape=shape, inside=some(value.inside), outside=some(value.outside))


def _fewer_rows(op: Op, value: Wide, space: Rows, start: int, stop: int) -> Wide:
    if start != 0 or space.flipped:
        raise Unbounded("slice that does not begin with the first row of the vocabulary")
    return replace(value, shape=op.result.shape, space=replace(space, width=stop))


def _fewer_ranks(op: Op, value: Wide, space: Ranks, start: int, stop: int) -> Wide | Plain:
    if space.rising:
        start, stop = space.width - stop, space.width - start
    if stop - start == 1:
        rank = jnp.full((space.batch, 1), start)
        kth = None if value.source is None else Kth(value.source, rank, rank)
        return Plain(op.result.shape, _each(at_rank(value, start), lambda end: end.reshape(op.result.shape)), kth=kth)
    if start != 0:
        raise Unbounded("slice that leaves out the best of the vocabulary")
    inner = min(space.inner, stop)
    assert value.inside is not None

    def first(end: Any) -> Any:
        return end if end.shape[1] == 1 else end[:, :inner]

    def rest(end: Any) -> Any:
        return end if end.shape[1] == 1 else end[:, : stop - inner]

    outside = None if value.outside is None or stop <= inner else _each(value.outside, rest)
    fewer = replace(space, inner=inner, width=stop)
    return replace(
        value, shape=op.result.shape, space=fewer, inside=_each(value.inside, first), outside=outside, bag=None
    )


def at_rank(value: Wide, rank: int) -> Bounded:
    """The bounds of one column after a sort, ``[batch, 1]``."""
    space, side = value.space, value.inside
    assert isinstance(space, Ranks)
    if rank >= space.inner:
        side, rank = value.outside, rank - space.inner
    assert side is not None

    def one(end: Any) -> Any:
        end = end if end.shape[1] == 1 else lax.slice_in_dim(end, rank, rank + 1, axis=1)
        return jnp.broadcast_to(end, (space.batch, 1))

    return _each(side, one)


_MOVES = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "reverse": _reverse,
    "slice": _slice,
}
