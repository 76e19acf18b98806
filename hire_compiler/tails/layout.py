"""Layout operations of a tail: values without a vocabulary move freely, those with one keep it in one dimension."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.graph.graph import Op
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.tails.entries import columns
from hire_compiler.tails.spaces import Ranks, Rows
from hire_compiler.tails.values import Frame, Kth, Plain, Shadow, Unknown, Wide, mapped

_FEW = 64  # columns that are read as numbers of their own; more are a part of the vocabulary

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
    frame = value.frame
    if frame is None or (isinstance(made, Plain) and frame.kind == "shift"):
        return made
    if prod(made.shape) // (made.shape[made.axis] if isinstance(made, Wide) else 1) == prod(value.lead):
        return replace(made, frame=_framed(op, frame))
    return _of_rows(op, value, made, frame)


def _of_rows(op: Op, value: Wide, made: Wide | Plain, frame: Frame) -> Wide | Plain:
    """A value of other batch rows, whose unknown numbers are those of its rows."""
    rows = _rows_of(op, value)
    if rows is None or not isinstance(made, Wide) or not isinstance(made.space, Rows):
        return made
    origin = ("rows", frame.origin, tuple(map(int, rows)))
    reach = frame.reach if frame.reach.shape[0] == 1 else frame.reach[rows]
    return replace(made, frame=replace(_framed(op, frame), origin=origin, reach=reach))


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
    if op.result.shape[dims[value.axis]] != value.shape[value.axis] or lead != sorted(lead):
        raise Unbounded("broadcast_in_dim of logits along the vocabulary")
    made = replace(value, shape=op.result.shape, axis=dims[value.axis])
    if prod(made.lead) == prod(value.lead):
        return made
    rows = _rows_of(op, value)
    assert rows is not None
    return chosen_rows(made, rows, prod(value.lead))


def _rows_of(op: Op, value: Wide) -> np.ndarray | None:
    """Which of a value's batch rows an operation takes (a slice), or repeats (several samples of each)."""
    own = np.arange(prod(value.lead)).reshape(value.lead)
    if op.name == "slice":
        bounds = list(zip(op.ints("start_indices"), op.ints("limit_indices"), op.ints("strides"), strict=True))
        del bounds[value.axis]
        return own[tuple(slice(*bound) for bound in bounds)].ravel()
    if op.name != "broadcast_in_dim":
        return None
    dims = op.ints("broadcast_dimensions")
    axis = dims[value.axis]
    wanted = [size for dim, size in enumerate(op.result.shape) if dim != axis]
    at = [dim - (dim > axis) for i, dim in enumerate(dims) if i != value.axis]
    return np.broadcast_to(
        own.reshape([own.shape[at.index(i)] if i in at else 1 for i in range(len(wanted))]), wanted
    ).ravel()


def chosen_rows(value: Wide, rows: np.ndarray, batch: int) -> Wide:
    """A value with other batch rows, which are some of its ``batch``.

    Raises:
      Unbounded: it is sorted.
    """
    if not isinstance(value.space, Rows):
        raise Unbounded("batch rows of sorted logits, repeated or left out")

    def some(end: Any) -> Any:
        return end if end.shape[0] == 1 else end[rows]

    space = value.space.of_rows(tuple(map(int, rows)), batch)
    inside, outside = (side and _each(side, some) for side in (value.inside, value.outside))
    return replace(value, space=space, inside=inside, outside=outside, bag=None)


def _reshape(op: Op, value: Wide) -> Wide:
    shape, before, size = op.result.shape, prod(value.shape[: value.axis]), value.shape[value.axis]
    for axis, found in enumerate(shape):
        if found == size and prod(shape[:axis]) == before:
            return replace(value, shape=shape, axis=axis)
    for axis, found in enumerate(shape):
        beams = found // size
        if found == beams * size and prod(shape[:axis]) * beams == before and prod(shape[axis + 1 :]) == 1:
            return _flattened(value, shape, axis, beams)
    raise Unbounded("reshape that takes the vocabulary apart")


def _flattened(value: Wide, shape: tuple[int, ...], axis: int, beams: int) -> Wide:
    """Batch rows put one behind the other, as a beam search compares what its beams may go on with."""
    space, batch = value.space, prod(value.lead)
    if isinstance(space, Rows) and space.lists:
        raise Unbounded("reshape that joins beams of a list of tokens")
    if not isinstance(space, Rows) or space.flipped or space.total != space.width:
        raise Unbounded("reshape that joins beams of sorted or padded logits")

    def joined(end: Any) -> Any:
        return jnp.broadcast_to(end, (batch, space.width)).reshape(batch // beams, -1)

    def inner(end: Any) -> Any:
        return jnp.broadcast_to(end, (batch, space.ids.shape[1])).reshape(batch // beams, -1)

    inside = value.inside and _each(value.inside, inner)
    outside = value.outside and _each(value.outside, joined)
    return replace(value, shape=shape, axis=axis, space=space.flattened(batch, beams), inside=inside, outside=outside)


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
        value = _some_batch_rows(op, value)
    if stride != 1:
        raise Unbounded("slice that leaves out rows of the vocabulary")
    if isinstance(value.space, Rows):
        return _fewer_rows(op, value, value.space, start, stop)
    return _fewer_ranks(op, value, value.space, start, stop)


def _some_batch_rows(op: Op, value: Wide) -> Wide:
    """Some of the batch rows, with the candidates that they had."""
    kept = [size for dim, size in enumerate(op.result.shape) if dim != value.axis]
    shape = (*kept[: value.axis], value.shape[value.axis], *kept[value.axis :])
    rows = _rows_of(op, value)
    assert rows is not None
    return chosen_rows(replace(value, shape=shape), rows, prod(value.lead))


def _fewer_rows(op: Op, value: Wide, space: Rows, start: int, stop: int) -> Wide | Plain:
    if stop - start <= _FEW and (start != 0 or stop == 1):
        return columns(value, start, stop - start, op.result.shape)
    if space.flipped:
        raise Unbounded("slice of a vocabulary from its last row on")
    return replace(value, shape=op.result.shape, space=replace(space, begin=space.begin + start, width=stop - start))


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
