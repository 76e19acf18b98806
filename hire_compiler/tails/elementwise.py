"""Elementwise operations of a tail, on bounds; and what they do to frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.expression import COMPARE, OPERATIONS, Instruction
from hire_compiler.proofs.enclosure import NARROW, Arithmetic, Bounded, Steps, Unbounded
from hire_compiler.proofs.interval import Enclosure, known, point, widened
from hire_compiler.tails.ranked import with_ranks
from hire_compiler.tails.spaces import Rows
from hire_compiler.tails.values import (
    Frame,
    Kth,
    Mixed,
    Plain,
    Shadow,
    Unknown,
    Wide,
    canonical,
    everything,
    is_row_number,
    split,
)
from hire_compiler.tails.whole_numbers import KNOWN, as_float, whole_rule

ELEMENTWISE = OPERATIONS | frozenset(KNOWN) | {"bitcast_convert"}

_FLOATS = frozenset({"bfloat16", "float16", "float32", "float64"})
_UNIT = 2.0**-23
_EXACT = frozenset({"select", "convert", "compare", "maximum", "minimum", "negate", "abs", "clamp", "and", "or", "not"})
_NEVER_NEGATIVE = frozenset({"exponential", "logistic", "divide", "multiply", "sqrt", "power"})


@dataclass(frozen=True)
class Elementwise:
    """Elementwise operations under one arithmetic."""

    arithmetic: Arithmetic

    def __call__(self, instruction: Instruction, args: Sequence[Shadow], shape: tuple[int, ...]) -> Shadow:
        """What an operation makes of its operands, which have one shape (or none).

        Raises:
          Unbounded: nothing is known of it.
        """
        if instruction.dtype in ("float64", "int64", "uint64"):
            raise Unbounded(f"{instruction.op} in {instruction.dtype}")
        if any(isinstance(arg, Unknown) for arg in args):
            return self._unknown(instruction, args, shape)
        wide = next((arg for arg in args if isinstance(arg, Wide)), None)
        made = self._plain(instruction, args, shape) if wide is None else self._wide(instruction, args, wide)
        frame = self._frame(instruction, args, shape)
        if frame is None:
            return made
        if instruction.op == "compare":
            return _both(made, frame.value)
        return replace(made, frame=replace(frame, value=self._consistent(frame.value, made)))

    def rounded(self, value: Bounded) -> Enclosure:
        """The bounds after the rounding of its own type."""
        return Steps(self.arithmetic, loose=True).rounded(value)

    def _plain(self, instruction: Instruction, args: Sequence[Shadow], shape: tuple[int, ...]) -> Plain:
        bounded = [arg.bounded for arg in args if isinstance(arg, Plain)]
        rank = len(shape)
        bounded = [replace(b, bounds=_spread(b.bounds, rank)) for b in bounded]
        made = Plain(shape, self._step(instruction, bounded))
        literals = [arg.literal for arg in args if isinstance(arg, Plain)]
        if instruction.op == "select":
            made = replace(made, kth=self._kth(args, shape))
        if instruction.op == "convert" and literals[0] is not None and made.dtype in _FLOATS:
            made = replace(made, literal=literals[0])
        return made

    def _kth(self, args: Sequence[Shadow], shape: tuple[int, ...]) -> Kth | None:
        """The rank of a value where a check holds (that a position is in range); where not, it may be any."""
        check, value, other = args
        kth = value.kth if isinstance(value, Plain) else None
        if kth is None or not isinstance(check, Plain) or not isinstance(other, Plain) or other.literal is None:
            return None
        if prod(shape) != kth.low.shape[0]:
            return None
        holds = jnp.broadcast_to(self.rounded(check.bounded).low, shape).reshape(kth.low.shape)
        return Kth(kth.source, jnp.where(holds, kth.low, -1), jnp.where(holds, kth.high, 1 << 30))

    def _wide(self, instruction: Instruction, args: Sequence[Shadow], wide: Wide) -> Wide:
        parts = []
        for arg in args:
            if isinstance(arg, Wide):
                if arg.axis != wide.axis or arg.shape != wide.shape or not arg.space.same(wide.space):
                    if isinstance(arg.space, Rows) and isinstance(wide.space, Rows):
                        raise _apart(instruction.op, arg, arg.space, wide, wide.space)
                    raise Unbounded(f"{instruction.op} of values in different orders of the vocabulary")
                parts.append((arg.inside, arg.outside))
            else:
                assert isinstance(arg, Plain)
                parts.append(split(_full_rank(arg, wide), wide))
        inside, outside = (
            None if missing is None else self._step(instruction, [part[side] for part in parts])  # type: ignore[misc]
            for side, missing in ((0, wide.inside), (1, wide.outside))
        )
        made = Wide(wide.shape, wide.axis, wide.space, inside, outside, made=_traces(instruction, args))
        if instruction.op == "compare":
            made = with_ranks(made, str(instruction.value), args, self.rounded)
        return replace(made, bag=self._bag(instruction, args, wide))

    def _bag(self, instruction: Instruction, args: Sequence[Shadow], wide: Wide) -> Wide | None:
        """The same operation on values that are not sorted, where it does not depend on the order."""
        if any(isinstance(arg, Wide) and arg.bag is None for arg in args):
            return None
        if any(isinstance(arg, Plain) and not is_row_number(_full_rank(arg, wide), wide.axis) for arg in args):
            return None
        bare = [replace(arg.bag, frame=None) if isinstance(arg, Wide) and arg.bag else arg for arg in args]
        if not all(
            arg.space.same(bare[0].space) for arg in bare if isinstance(arg, Wide) and isinstance(bare[0], Wide)
        ):
            return None
        made = self(instruction, bare, wide.shape)
        assert isinstance(made, Wide)
        return made

    def _unknown(self, instruction: Instruction, args: Sequence[Shadow], shape: tuple[int, ...]) -> Shadow:
        if instruction.op == "select" and isinstance(args[0], Unknown):
            first, second = args[1], args[2]
            if not isinstance(first, Unknown) and not isinstance(second, Unknown):
                anything = everything((1,) * len(shape), "bool")
                return self(instruction, [replace(anything, shape=shape), first, second], shape)
        return Unknown(shape, instruction.dtype)

    def _consistent(self, framed: Any, made: Any) -> Any:
        """A framed value, NaN where the true one may overflow and it does not."""

        def one(framed: Bounded | None, true: Bounded | None) -> Bounded | None:
            if framed is None or true is None:
                return None
            a, b = self.rounded(framed), self.rounded(true)
            lost = ((b.high == jnp.inf) & (a.high != jnp.inf)) | ((b.low == -jnp.inf) & (a.low != -jnp.inf))
            nan = lost | jnp.isnan(b.low) | jnp.isnan(b.high)
            ends = (jnp.where(nan, jnp.nan, end) for end in (a.low, a.high))
            return Bounded(Enclosure(*ends), framed.dtype, False)

        if isinstance(framed, Plain):
            return replace(framed, bounded=one(framed.bounded, made.bounded) or framed.bounded)
        return replace(framed, inside=one(framed.inside, made.inside), outside=one(framed.outside, made.outside))

    def _step(self, instruction: Instruction, args: Sequence[Bounded]) -> Bounded:
        op, dtype = instruction.op, instruction.dtype
        steps = Steps(self.arithmetic, loose=True)
        bounds = [steps.rounded(arg) for arg in args]
        if op == "bitcast_convert":
            return _bitcast(bounds[0], args[0].dtype, dtype)
        if op == "compare" and known(*bounds):
            return Bounded(point(COMPARE[str(instruction.value)](bounds[0].low, bounds[1].low)), dtype, False)
        if op == "select" and known(*bounds):
            return Bounded(point(jnp.where(*(bound.low for bound in bounds))), dtype, False)
        if op in KNOWN and known(*bounds):
            return Bounded(point(KNOWN[op](*jnp.broadcast_arrays(*(b.low for b in bounds)))), dtype, False)
        if not known(*bounds):
            whole = whole_rule(op, bounds, dtype)
            if whole is not None:
                return Bounded(whole, dtype, False)
            if op == "convert" and _is_whole(args[0].dtype) and _is_whole(dtype):
                return Bounded(_narrowed(bounds[0], dtype), dtype, False)
        if op not in OPERATIONS:
            raise Unbounded(f"{op} of numbers that follow from the logits")
        made = steps.next(instruction, args)
        if op in _NEVER_NEGATIVE and dtype in _FLOATS and not known(made.bounds):
            # Rounding does not change a sign, so what is not negative stays so.
            check = (
                True
                if op == "exponential"
                else jnp.stack(jnp.broadcast_arrays(*(b.low >= 0 for b in bounds))).all(axis=0)
            )
            low = jnp.where(check & (made.bounds.low < 0), 0.0, made.bounds.low)
            made = replace(made, bounds=Enclosure(low, made.bounds.high))
        return made

    # ------------------------------------------------------------------------------------------------------ frames

    def _frame(self, instruction: Instruction, args: Sequence[Shadow], shape: tuple[int, ...]) -> Frame | None:
        if not any(isinstance(arg, Wide) for arg in args) and not any(
            isinstance(arg, Plain) and arg.frame is not None for arg in args
        ):
            return None
        op = instruction.op
        frames = [arg.frame for arg in args]  # type: ignore[union-attr]
        origins = {frame.origin for frame in frames if frame is not None}
        turned = op == "subtract" and isinstance(args[0], Plain)  # a number, from which logits are taken
        if op in ("divide", "multiply", "subtract", "add") and len(args) == 2 and (turned or not frames[1]):
            begun = self._begin(instruction, args, shape, turned=turned)
            if begun is not None:
                return begun
        if len(origins) != 1:
            return None
        first = next(frame for frame in frames if frame is not None)
        kept = self._keeps(first.kind, op, args, frames)
        if not kept:
            return None
        inner = [arg if frame is None else frame.value for arg, frame in zip(args, frames, strict=True)]
        if op == "compare":
            return replace(first, value=self(instruction, inner, shape))
        value = self._framed(instruction, inner, shape)
        if first.kind == "shift" and (op == "negate" or (frames[0] is None and op == "subtract")):
            first = replace(first, origin=("negate", first.origin))
        if op == "log":
            reach = jnp.log(first.reach) * (1 + 2.0**-18) + 2.0**-18
            return Frame("shift", ("log", first.origin), reach, self.loosened(value, reach))
        return replace(first, value=self.loosened(value, first.reach) if first.kind == "shift" else value)

    def _begin(
        self, instruction: Instruction, args: Sequence[Shadow], shape: tuple[int, ...], *, turned: bool
    ) -> Frame | None:
        """A frame that begins, or grows, with a number of each batch row that is only known between bounds.

        Args:
          turned: the number stands in front of the value.
        """
        op, (value, number) = instruction.op, reversed(args) if turned else args
        if not isinstance(value, Wide) or not isinstance(number, Plain) or not is_row_number(number, value.axis):
            return None
        bounds = self.rounded(number.bounded)
        if bounds.low is bounds.high or number.dtype not in _FLOATS:
            return None
        known_frame = value.frame
        inner = value if known_frame is None else known_frame.value
        if op in ("divide", "multiply"):
            if known_frame is not None and known_frame.kind != "scale":
                return None
            end = bounds.high if op == "divide" else bounds.low
            usual = (bounds.low > 0) & jnp.isfinite(bounds.high)
            end = jnp.where(usual, end, jnp.nan)
            ratio = canonical(jnp.where(usual, bounds.high / bounds.low, jnp.nan) * (1 + 2.0**-20), value)
            reach = ratio if known_frame is None else ratio * known_frame.reach
            origin = (op, number.origin, known_frame.origin if known_frame else None)
            return Frame("scale", origin, reach, self._with(instruction, inner, number, end, shape))
        if known_frame is not None and known_frame.kind != "shift":
            return None
        width = canonical((bounds.high - bounds.low) * (1 + 2.0**-20), value)
        reach = width if known_frame is None else width + known_frame.reach
        origin = (op, (turned, number.origin), known_frame.origin if known_frame else None)
        made = self._with(instruction, inner, number, bounds.high, shape, turned=turned)
        return Frame("shift", origin, reach, self.loosened(made, reach))

    def _with(
        self, instruction: Instruction, inner: Shadow, number: Plain, end: Any, shape: tuple[int, ...],
        *, turned: bool = False,
    ) -> Any:  # fmt: skip
        exact = replace(number, bounded=Bounded(point(end), number.dtype, False), frame=None)
        return self._framed(instruction, [exact, inner] if turned else [inner, exact], shape)

    def _framed(self, instruction: Instruction, args: Sequence[Shadow], shape: tuple[int, ...]) -> Any:
        """An operation on framed values: the grid of narrow numbers is not framed, so their roundings only widen."""
        if instruction.dtype not in NARROW:
            return self(instruction, args, shape)
        info = jnp.finfo(NARROW[instruction.dtype])
        made = self(replace(instruction, dtype="float32"), args, shape)

        def wider(bounded: Bounded | None) -> Bounded | None:
            return bounded and replace(bounded, bounds=widened(bounded.bounds, float(info.eps), 2 * float(info.tiny)))

        if isinstance(made, Plain):
            return replace(made, bounded=wider(made.bounded) or made.bounded)
        assert isinstance(made, Wide)
        return replace(made, inside=wider(made.inside), outside=wider(made.outside))

    def loosened(self, value: Any, reach: Any) -> Any:
        """A shifted value whose true size, which says how far it is rounded, may be larger by ``reach``."""
        units = max(self.arithmetic.units.values()) * _UNIT

        def one(bounded: Bounded | None) -> Bounded | None:
            if bounded is None:
                return None
            low, high = bounded.bounds.low, bounded.bounds.high
            more = reach * (2 * units if bounded.dtype not in NARROW else 2.0**-5)
            ends = (jnp.where(jnp.isinf(low), low, low - more), jnp.where(jnp.isinf(high), high, high + more))
            return replace(bounded, bounds=Enclosure(*ends))

        assert isinstance(value, Wide)
        return replace(value, inside=one(value.inside), outside=one(value.outside))

    @staticmethod
    def _keeps(kind: str, op: str, args: Sequence[Shadow], frames: Sequence[Frame | None]) -> bool:
        """Whether an operation on framed values gives the framed result."""
        framed = [frame is not None for frame in frames]
        if op == "convert":
            return args[0].dtype in _FLOATS
        if op == "compare":
            return all(framed)
        if op == "select":
            fixed = (0.0, float("inf"), -float("inf")) if kind == "scale" else (float("inf"), -float("inf"))
            return not framed[0] and all(
                is_framed or (isinstance(arg, Plain) and arg.literal in fixed)
                for arg, is_framed in zip(args[1:], framed[1:], strict=True)
            )
        if op in ("maximum", "minimum"):
            return all(framed)
        if kind == "scale":
            return (
                (op in ("add", "subtract") and all(framed))
                or (op == "multiply" and sum(framed) == 1)
                or (op == "divide" and framed == [True, False])
                or op in ("negate", "abs", "log")
            )
        return op == "negate" or (op in ("add", "subtract") and sum(framed) == 1)


def _apart(op: str, one: Wide, space: Rows, other: Wide, beside: Rows) -> Unbounded:
    """Why two values cannot be combined: their columns are others, or their batch rows are."""
    if one.axis != other.axis or one.shape != other.shape:
        return Unbounded(f"{op} of logits whose vocabularies lie in different dimensions")
    if space.lists != beside.lists:
        return Unbounded(f"{op} of logits of different lists of tokens")
    if (space.begin, space.width, space.flipped) != (beside.begin, beside.width, beside.flipped):
        return Unbounded(f"{op} of logits of different parts of the vocabulary")
    return Mixed(f"{op} of logits of different batch rows")


def _both(one: Any, other: Any) -> Any:
    """What two true enclosures of the same booleans say together."""

    def met(a: Bounded | None, b: Bounded | None) -> Bounded | None:
        if a is None or b is None:
            return None
        return replace(a, bounds=Enclosure(a.bounds.low | b.bounds.low, a.bounds.high & b.bounds.high))

    if isinstance(one, Plain):
        return replace(one, bounded=met(one.bounded, other.bounded) or one.bounded)
    return replace(one, inside=met(one.inside, other.inside), outside=met(one.outside, other.outside))


def _spread(bounds: Enclosure, rank: int) -> Enclosure:
    if bounds.low.ndim == rank:
        return bounds
    assert bounds.low.ndim == 0
    low = bounds.low.reshape((1,) * rank)
    return point(low) if bounds.low is bounds.high else Enclosure(low, bounds.high.reshape((1,) * rank))


def _full_rank(value: Plain, like: Wide) -> Plain:
    """A scalar operand (of a clamp, of a select) in the shape of the others."""
    bounds = _spread(value.bounded.bounds, len(like.shape))
    return replace(value, shape=like.shape, bounded=replace(value.bounded, bounds=bounds))


def _traces(instruction: Instruction, args: Sequence[Shadow]) -> frozenset[str]:
    """The arithmetic behind a value."""
    found = frozenset[str]().union(*(arg.made for arg in args if isinstance(arg, Wide)))
    return found | {instruction.op} if instruction.op not in _EXACT else found


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _narrowed(bounds: Enclosure, dtype: str) -> Enclosure:
    info = jnp.iinfo(dtype)
    source = jnp.iinfo(bounds.low.dtype)
    low, high = bounds.low.astype(dtype), bounds.high.astype(dtype)
    if info.min <= source.min and info.max >= source.max:
        return Enclosure(low, high)
    fits = (low.astype(source.dtype) == bounds.low) & (high.astype(source.dtype) == bounds.high)
    fits &= (low >= 0) == (bounds.low >= 0)
    fits &= (high >= 0) == (bounds.high >= 0)
    return Enclosure(jnp.where(fits, low, info.min), jnp.where(fits, high, info.max))


def _bitcast(bounds: Enclosure, source: str, dtype: str) -> Bounded:
    if (source, dtype) == ("int32", "float32"):
        return Bounded(as_float(bounds), dtype, False)
    if (source, dtype) == ("uint32", "float32") and known(bounds):
        return Bounded(point(lax.bitcast_convert_type(bounds.low, jnp.float32)), dtype, False)
    raise Unbounded(f"bitcast_convert of {source} to {dtype}")
