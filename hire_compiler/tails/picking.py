"""Look-ups and scatters of a tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler import _mlir
from hire_compiler.graph.expression import Instruction
from hire_compiler.graph.graph import Op
from hire_compiler.proofs.enclosure import NARROW, Bounded, Unbounded, computed_again
from hire_compiler.proofs.interval import Enclosure, known, point, widened
from hire_compiler.runtime.checks import all_of
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.entries import gathered, parts_last
from hire_compiler.tails.order import look_up
from hire_compiler.tails.ranked import rank_of
from hire_compiler.tails.spaces import Rows
from hire_compiler.tails.values import (
    Frame,
    Plain,
    Shadow,
    Unknown,
    Wide,
    everything,
    is_known,
    mapped,
    plain,
    split,
    unless_sure,
)

_UNIT = 2.0**-23


def gather(op: Op, value: Wide, index: Plain, elementwise: Elementwise) -> Plain:
    """One entry of every batch row, as ``take_along_axis`` picks it; several at places that a request names."""
    numbers, rows = _mlir.gather_numbers(op.ir), prod(value.lead)
    if op.result.size != rows and is_known(index) and isinstance(value.space, Rows):
        return gathered(op, value, index)
    if value.axis not in numbers.start_index_map or set(op.ints("slice_sizes")) != {1}:
        raise Unbounded("gather of more than single entries")
    if op.result.size != rows or _mlir.gather_vector(op.ir) != len(index.shape) - 1:
        raise Unbounded("gather of several entries a batch row at places that follow from the logits")
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


def scatter(op: Op, operands: list[Shadow], elementwise: Elementwise) -> Shadow:
    """Numbers of a request put into logits, or added to them; or the best of a sort put back where they were."""
    value, index, updates = operands
    kind = _body(op)
    if isinstance(index, Wide) and isinstance(updates, (Wide, Plain)) and isinstance(value, Plain) and kind == "set":
        raise Unbounded("scatter of sorted logits")
    if not isinstance(index, Plain) or isinstance(value, Unknown):
        raise Unbounded("scatter to places that follow from the logits")
    if not isinstance(updates, Plain):
        raise Unbounded("scatter of numbers that follow from the logits")
    bounds = mapped(elementwise.rounded(updates.bounded), lambda end: jnp.broadcast_to(end, updates.shape))
    put = _Put(op, index, value.shape)
    if kind in ("add", "multiply") and isinstance(value, Wide) and value.dtype not in ("float32", *NARROW):
        raise Unbounded(f"scatter ({kind}) into {value.dtype}")
    if isinstance(value, Plain):
        return _into_known(value, put, kind, bounds)
    made = _RULES[kind](value, put, bounds, elementwise)
    frame = _framed(value, kind, updates, put, bounds, elementwise)
    if is_known(index):
        return replace(made, frame=frame)
    made = unless_sure(made, put.sure)
    return made if frame is None else replace(made, frame=replace(frame, value=unless_sure(frame.value, put.sure)))


def _framed(
    value: Wide, kind: str, updates: Plain, put: _Put, bounds: Enclosure, elementwise: Elementwise
) -> Frame | None:
    """The framed result, where what is put is no matter of the unknown number: infinite, or added to a sum of it."""
    frame = value.frame
    if frame is None:
        return None
    assert isinstance(frame.value, Wide)
    if kind == "set" and updates.literal in (float("inf"), -float("inf")):
        return replace(frame, value=_overwritten(frame.value, put, bounds, elementwise))
    if kind == "add" and frame.kind == "shift":
        return replace(frame, value=elementwise.loosened(_summed(frame.value, put, bounds, elementwise), frame.reach))
    return None


def _into_known(value: Plain, put: _Put, kind: str, bounds: Enclosure) -> Plain:
    """What follows from no logits, but for the numbers that are put into it or their places."""
    exact = is_known(value) and known(bounds)
    if not exact and kind != "set":
        raise Unbounded(f"scatter ({kind}) of numbers that follow from the logits")
    base = mapped(value.bounded.bounds, lambda end: jnp.broadcast_to(end, value.shape))
    low = put(bounds.low, kind, base.low)
    ends = point(low) if exact else Enclosure(low, put(bounds.high, kind, base.high))
    if exact and kind in ("add", "multiply") and jnp.issubdtype(low.dtype, jnp.floating):
        ends = computed_again(low)
    made = plain(value.shape, ends, value.dtype)
    return made if known(put.places) else unless_sure(made, put.sure)


def _overwritten(value: Wide, put: _Put, bounds: Enclosure, elementwise: Elementwise) -> Wide:
    touched = plain(value.shape, point(put(jnp.ones(bounds.low.shape, jnp.float32), "set") > 0), "bool")
    written = plain(value.shape, Enclosure(put(bounds.low, "set"), put(bounds.high, "set")), value.dtype)
    return _elementwise("select", [touched, written, replace(value, frame=None)], value, elementwise)


def _extreme(op: str, value: Wide, put: _Put, bounds: Enclosure, elementwise: Elementwise) -> Wide:
    """The smaller or the larger of a logit and what is put there; elsewhere what changes nothing."""
    floats = jnp.issubdtype(bounds.low.dtype, jnp.floating)
    info = None if floats else jnp.iinfo(bounds.low.dtype)
    least, most = (-jnp.inf, jnp.inf) if info is None else (info.min, info.max)
    base = jnp.full(value.shape, most if op == "minimum" else least, bounds.low.dtype)
    written = plain(value.shape, Enclosure(put(bounds.low, op, base), put(bounds.high, op, base)), value.dtype)
    return _elementwise(op, [replace(value, frame=None), written], value, elementwise)


def _multiplied(value: Wide, put: _Put, bounds: Enclosure, elementwise: Elementwise) -> Wide:
    """Products; where there are several factors, they may be multiplied in any order, and nothing is known."""
    if not known(bounds):
        raise Unbounded("scatter (multiply) of numbers that follow from the logits")
    ones = jnp.ones(value.shape, bounds.low.dtype)
    factor = plain(value.shape, point(put(bounds.low, "multiply", ones)), value.dtype)
    times = put(jnp.ones(bounds.low.shape, jnp.float32), "add")
    once, often = (plain(value.shape, point(check), "bool") for check in (times > 0, times > 1))
    bare = replace(value, frame=None)
    product = _elementwise("multiply", [bare, factor], value, elementwise)
    made = _elementwise("select", [once, product, bare], value, elementwise)
    anything = replace(everything((1,) * len(value.shape), value.dtype), shape=value.shape)
    return _elementwise("select", [often, anything, made], value, elementwise)


def _summed(value: Wide, put: _Put, bounds: Enclosure, elementwise: Elementwise) -> Wide:
    times = put(jnp.ones(bounds.low.shape, jnp.float32), "add")
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


def _elementwise(op: str, args: list[Shadow], like: Wide, elementwise: Elementwise) -> Wide:
    made = elementwise(Instruction(op, tuple(range(len(args))), like.dtype), args, like.shape)
    assert isinstance(made, Wide)
    return made


def _body(op: Op) -> str:
    block = op.blocks[0]
    if len(op.operands) != 3:
        raise Unbounded("scatter of several arrays")
    if len(block.ops) == 1 and block.returned == (block.args[1],):
        return "set"
    only = block.ops[0]
    if len(block.ops) == 2 and only.name in _PUTS and set(map(id, only.operands)) == set(map(id, block.args)):
        return only.name
    raise Unbounded(f"scatter that does more than to overwrite, to add or to compare ({only.name})")


class _Put:
    """The author's scatter, of other numbers into others (zeros, if nothing else is said).

    Attributes:
      places: between which numbers the indices lie.
    """

    def __init__(self, op: Op, index: Plain, shape: tuple[int, ...]) -> None:
        self._numbers, vector = _mlir.scatter_numbers(op.ir)
        self.places = index.bounded.bounds
        self._index = parts_last(index, vector)
        self._shape = shape

    @property
    def sure(self) -> Any:
        """Whether there is one place only for each number."""
        return all_of(self.places.low == self.places.high)

    def __call__(self, updates: Any, how: str, base: Any | None = None) -> Any:
        base = jnp.zeros(self._shape, updates.dtype) if base is None else base
        return _PUTS[how](base, self._index, updates, self._numbers, mode=lax.GatherScatterMode.FILL_OR_DROP)


_PUTS: dict[str, Callable[..., Any]] = {
    "set": lax.scatter,
    "add": lax.scatter_add,
    "multiply": lax.scatter_mul,
    "minimum": lax.scatter_min,
    "maximum": lax.scatter_max,
}
_RULES: dict[str, Callable[[Wide, _Put, Enclosure, Elementwise], Wide]] = {
    "set": _overwritten,
    "add": _summed,
    "multiply": _multiplied,
    "minimum": partial(_extreme, "minimum"),
    "maximum": partial(_extreme, "maximum"),
}
