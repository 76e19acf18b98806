"""Look-ups and scatters of a tail."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler import _mlir
from hire_compiler.graph.expression import Instruction
from hire_compiler.graph.graph import Op
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure, point, widened
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.order import look_up
from hire_compiler.tails.ranked import rank_of
from hire_compiler.tails.values import Frame, Plain, Shadow, Wide, is_known, mapped, plain, split

_UNIT = 2.0**-23


def gather(op: Op, value: Wide, index: Plain, elementwise: Elementwise) -> Plain:
    """One entry of every batch row, as ``take_along_axis`` picks it."""
    numbers = _mlir.gather_numbers(op.ir)
    if value.axis not in numbers.start_index_map or set(op.ints("slice_sizes")) != {1}:
        raise Unbounded("gather of more than one entry a batch row")
    rows = prod(value.lead)
    if op.result.size != rows:
        raise Unbounded("gather of several entries a batch row")
    full = mapped(index.bounded.bounds, lambda end: jnp.broadcast_to(end, index.shape))
    full = mapped(full, lambda end: end.reshape(rows, -1))
    at = numbers.start_index_map.index(value.axis)
    others = [i for i, dim in enumerate(numbers.start_index_map) if dim != value.axis]
    batched = [i for i in numbers.operand_batching_dims if value.shape[i] > 1]
    straight = jnp.ones((rows, 1), bool)
    if len(batched) != sum(size > 1 for size in value.lead):
        if batched or len(others) != 1 or value.shape[numbers.start_index_map[others[0]]] != rows:
            raise Unbounded("gather across batch rows")
        own = jnp.arange(rows, dtype=full.low.dtype)[:, None]
        straight = (full.low[:, others] == own) & (full.high[:, others] == own)
    last = value.shape[value.axis] - 1
    picked = mapped(full, lambda end: jnp.clip(end[:, at : at + 1].astype(jnp.int32), 0, last))
    picked = Enclosure(jnp.where(straight, picked.low, 0), jnp.where(straight, picked.high, last))
    shape = op.result.shape
    made = plain(shape, mapped(look_up(value, picked, elementwise), lambda end: end.reshape(shape)), value.dtype)
    made = replace(made, kth=rank_of(value, picked.low, picked.high))
    frame = value.frame
    if frame is None or frame.kind != "scale":
        return made
    assert isinstance(frame.value, Wide)
    inner = mapped(look_up(frame.value, picked, elementwise), lambda end: end.reshape(shape))
    return replace(made, frame=Frame("scale", frame.origin, frame.reach, plain(shape, inner, value.dtype)))


def scatter(op: Op, operands: list[Shadow], elementwise: Elementwise) -> Wide:
    """Numbers of a request put into logits, or added to them; or the best of a sort put back where they were."""
    value, index, updates = operands
    kind = _body(op)
    if isinstance(index, Wide) and isinstance(updates, (Wide, Plain)) and isinstance(value, Plain) and kind == "set":
        raise Unbounded("scatter of sorted logits")
    if not isinstance(value, Wide) or not isinstance(index, Plain) or not is_known(index):
        raise Unbounded("scatter to places that follow from the logits")
    if not isinstance(updates, Plain):
        raise Unbounded("scatter of numbers that follow from the logits")
    put = _Put(op, index, value.shape)
    bounds = mapped(elementwise.rounded(updates.bounded), lambda end: jnp.broadcast_to(end, updates.shape))
    if kind == "set":
        touched = plain(value.shape, point(put(jnp.ones(updates.shape, jnp.float32), "set") > 0), "bool")
        written = plain(value.shape, Enclosure(put(bounds.low, "set"), put(bounds.high, "set")), value.dtype)
        return _chosen(touched, written, value, elementwise)
    times = put(jnp.ones(updates.shape, jnp.float32), "add")
    added = Enclosure(put(bounds.low, "add"), put(bounds.high, "add"))
    size = put(jnp.maximum(jnp.abs(bounds.low), jnp.abs(bounds.high)), "add")
    return _added(value, added, size, times, elementwise)


def _added(value: Wide, added: Enclosure, size: Any, times: Any, elementwise: Elementwise) -> Wide:
    """Logits with sums added: every addition rounds, in any order, and where there is none nothing does."""
    eps = _UNIT if value.dtype == "float32" else float(jnp.finfo(value.dtype).eps)
    low, high, sizes, counts = (
        split(plain(value.shape, point(end), "float32"), value) for end in (added.low, added.high, size, times)
    )

    def side(bounded: Bounded | None, which: int) -> Bounded | None:
        if bounded is None:
            return None
        bounds = elementwise.rounded(bounded)
        ends = [part[which] for part in (low, high, sizes, counts)]
        a, b, s, n = (part.bounds.low for part in ends if part is not None)
        room = (jnp.maximum(jnp.abs(bounds.low), jnp.abs(bounds.high)) + s) * (4 * eps) * (n + 1)
        moved = widened(Enclosure(bounds.low + a - room, bounds.high + b + room), 2 * _UNIT)
        infinite = jnp.isinf(bounds.low) | jnp.isinf(bounds.high) | jnp.isinf(a) | jnp.isinf(b)
        plainly = Enclosure(bounds.low + a, bounds.high + b)
        made = Enclosure(jnp.where(infinite, plainly.low, moved.low), jnp.where(infinite, plainly.high, moved.high))
        nan = jnp.isnan(made.low) | jnp.isnan(made.high)
        made = Enclosure(jnp.where(nan, jnp.nan, made.low), jnp.where(nan, jnp.nan, made.high))
        here = n > 0
        return Bounded(
            Enclosure(jnp.where(here, made.low, bounds.low), jnp.where(here, made.high, bounds.high)), value.dtype
        )

    return replace(
        value, inside=side(value.inside, 0), outside=side(value.outside, 1), frame=None, made=value.made | {"add"}
    )


def _chosen(touched: Plain, written: Plain, value: Wide, elementwise: Elementwise) -> Wide:
    made = elementwise(
        Instruction("select", (0, 1, 2), value.dtype), [touched, written, replace(value, frame=None)], value.shape
    )
    assert isinstance(made, Wide)
    return made


def _body(op: Op) -> str:
    block = op.blocks[0]
    if len(op.operands) != 3:
        raise Unbounded("scatter of several arrays")
    if len(block.ops) == 1 and block.returned == (block.args[1],):
        return "set"
    only = block.ops[0]
    if len(block.ops) == 2 and only.name == "add" and set(map(id, only.operands)) == set(map(id, block.args)):
        return "add"
    raise Unbounded("scatter that neither overwrites nor adds")


class _Put:
    """The author's scatter, of other numbers into zeros."""

    def __init__(self, op: Op, index: Plain, shape: tuple[int, ...]) -> None:
        self._numbers, vector = _mlir.scatter_numbers(op.ir)
        places = jnp.broadcast_to(index.bounded.bounds.low, index.shape)
        self._index = places[..., None] if vector == len(index.shape) else jnp.moveaxis(places, vector, -1)
        self._shape = shape

    def __call__(self, updates: Any, how: str) -> Any:
        put = lax.scatter if how == "set" else lax.scatter_add
        zeros = jnp.zeros(self._shape, updates.dtype)
        return put(zeros, self._index, updates, self._numbers, mode=lax.GatherScatterMode.FILL_OR_DROP)
