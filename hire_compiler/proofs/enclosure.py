"""Enclosures: between which numbers the author's elementwise code comes out, for inputs known to lie between bounds.

Interval arithmetic over an :class:`~hire_compiler.graph.expression.Expression`, in float32 and rounded outward. What a
dense
program computes lies inside, whatever the compiler makes of the code: fused or not, multiplied by a reciprocal or
divided, rounded to a narrow type on the way or, where XLA may drop that, not. So functions that only *should* rise
(XLA's tanh falls by an ulp between many neighbouring numbers) need no trust.

A number that is NaN, or may be, comes out with NaN for both bounds. Comparisons of bounds have to be written so that
NaN fails the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.expression import Expression, Instruction, evaluate_instruction
from hire_compiler.proofs.interval import (
    RULES,
    Enclosure,
    around,
    compare,
    known,
    point,
    rising,
    square,
    union,
    widened,
    with_itself,
)
from hire_compiler.runtime.target import Target

NARROW = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}
_FLOATS = frozenset({"bfloat16", "float16", "float32", "float64"})
_UNIT = 2.0**-23
_AGAIN = 2.0**-20  # of its size and one, how far a number may come out otherwise when it is computed again

# How far a float32 operation is from the real number at most, in units of 2⁻²³ of the result. Measured over all float32
# numbers on XLA:CPU (tanh 2.4, logistic 1.2, exp 2.3, expm1 3.1, log 1.0, log1p 1.8, erf 2.8, erfc 33) and on an H100
# (2.7, 2.0, 1.3, 1.0, 0.7, 0.7, 3.1, 34), then at least doubled, because both what is computed here and what dense
# computes may be off. Sums and products may be contracted, reassociated with constants, or divided by a reciprocal.
CPU_UNITS: Mapping[str, float] = {
    "add": 4, "subtract": 4, "multiply": 4, "divide": 4, "chlo.square": 4, "sqrt": 4, "rsqrt": 4, "cbrt": 4,
    "exponential": 5, "exponential_minus_one": 8, "log": 4, "log_plus_one": 6, "logistic": 4, "tanh": 8,
    "chlo.erf": 8, "chlo.erfc": 72, "power": 32,
}  # fmt: skip

# Of narrow numbers XLA makes these of several operations, each of which may round.
_COMPOSED = frozenset(
    {"logistic", "exponential_minus_one", "log_plus_one", "tanh", "chlo.erf", "chlo.erfc", "power", "cbrt", "rsqrt"}
)


class Unbounded(Exception):
    """An operation of the author's code that has no bounds here; the message names it."""


@dataclass(frozen=True)
class Arithmetic:
    """What a platform's compiler does to elementwise code.

    Attributes:
      units: by operation, how far its float32 result is from the real number, in units of 2⁻²³ of it.
      keeps_rounding: a bfloat16 value that is read as such is rounded to bfloat16, one that the author widens at once
        is not (``xla_allow_excess_precision``), and of others nobody knows; False: either may happen anywhere.
    """

    units: Mapping[str, float]
    keeps_rounding: bool


def arithmetic_for(target: Target) -> Arithmetic:
    """What is known of a platform's compiler."""
    factor = target.elementwise_error
    units = CPU_UNITS if factor == 1 else {op: factor * units for op, units in CPU_UNITS.items()}
    return Arithmetic(units, target.keeps_rounding)


def enclose(
    expression: Expression, inputs: Sequence[Enclosure], dtypes: Sequence[str], arithmetic: Arithmetic
) -> Enclosure:
    """Between what the expression comes out, in the order of its result's type.

    Args:
      inputs: float32 bounds of every input *before* it is rounded to its type, booleans and integers as points; shapes
        broadcast against each other.
      dtypes: the type of every input in the author's program.

    Raises:
      Unbounded: the code contains an operation of which nothing is known.
    """
    return _evaluate(expression, arithmetic, inputs, dtypes)


@dataclass(frozen=True)
class Again(Enclosure):
    """Bounds that follow from one array: where numbers only move, it alone has to."""

    array: Any


def computed_again(value: Any) -> Again:
    """Between what a float comes out that the author computes, where the compiler fuses it with other code here."""
    wide = value.astype(jnp.float32)
    bounds = around(wide, jnp.where(jnp.isfinite(wide), (jnp.abs(wide) + 1) * _AGAIN, 0.0))
    return Again(bounds.low, bounds.high, value)


def why_unbounded(expression: Expression) -> str:
    """The first operation that :func:`enclose` has no bounds for; or ''."""
    # Of every value: whether it follows from the logits (the first input), and its type, where that is known.
    values: list[tuple[bool, str]] = [(i == 0, "") for i in range(expression.inputs)]
    for instruction in expression.instructions:
        op, args = instruction.op, [values[i] for i in instruction.args]
        if not (op in RULES or op in ("constant", "compare", "convert", "reduce_precision")):
            return op
        uncertain = any(follows for follows, _ in args)
        whole = instruction.dtype not in _FLOATS and instruction.dtype != "bool"
        if uncertain and whole and op != "select" and not (op == "convert" and args[0][1] == "bool"):
            return f"{op} of whole numbers"
        if uncertain and op == "convert" and instruction.dtype == "bool" and args[0][1] != "bool":
            return "convert to bool"
        values.append((uncertain, instruction.dtype))
    return ""


@dataclass(frozen=True, eq=False)
class Bounded:
    """A value on the way: its bounds before its own rounding, its type, and whether a rounding is still to come."""

    bounds: Enclosure
    dtype: str
    rounds: bool = False


def _evaluate(
    expression: Expression, arithmetic: Arithmetic, inputs: Sequence[Enclosure], dtypes: Sequence[str]
) -> Enclosure:
    narrow = [i for i in expression.instructions if i.dtype in NARROW and i.op in arithmetic.units]
    # Several narrow operations may be merged into one of other constants (z / 30 is a product with a rounded 1/30),
    # which rounds otherwise.
    steps = Steps(arithmetic, loose=len(narrow) > 1 or any(i.op == "divide" for i in narrow))
    values = [as_input(bounds, dtype) for bounds, dtype in zip(inputs, dtypes, strict=True)]
    for instruction in expression.instructions:
        values.append(steps.next(instruction, [values[i] for i in instruction.args]))
    return steps.rounded(values[expression.output])


@dataclass(frozen=True)
class Steps:
    """Single elementwise operations on bounds.

    Attributes:
      loose: narrow operations may be merged, and so round otherwise than each by itself.
    """

    arithmetic: Arithmetic
    loose: bool

    def next(self, instruction: Instruction, args: Sequence[Bounded]) -> Bounded:
        """What an operation makes of its operands.

        Raises:
          Unbounded: nothing is known of it.
        """
        op, dtype = instruction.op, instruction.dtype
        if op == "constant":
            return _constant(instruction)
        if op == "convert":
            return self._convert(instruction, args[0])
        if op == "compare":
            same = instruction.args[0] == instruction.args[1]
            direction, bounds = str(instruction.value), [self.rounded(arg) for arg in args]
            return Bounded(with_itself(direction, bounds[0]) if same else compare(direction, *bounds), dtype, False)
        bounds = [self.rounded(arg) for arg in args]
        logical = op == "select" or (dtype == "bool" and op in ("and", "or", "not", "is_finite"))
        if dtype not in _FLOATS and not logical:
            if not known(*bounds):
                raise Unbounded(op)
            return Bounded(point(evaluate_instruction(instruction, [b.low for b in bounds])), dtype, False)
        rule = rounding(instruction) if op == "reduce_precision" else RULES.get(op)
        if rule is None:
            raise Unbounded(op)
        if op == "multiply" and instruction.args[0] == instruction.args[1]:
            rule, bounds = square, bounds[:1]
        units = self.arithmetic.units.get(op, 0.0)
        made = widened(rule(*bounds), units * _UNIT) if units else rule(*bounds)
        if units and dtype in NARROW and (self.loose or dtype == "float16" or op in _COMPOSED):
            info = jnp.finfo(NARROW[dtype])
            steps = 4 if op in _COMPOSED else 1
            made = widened(made, steps * float(info.eps), 2 * float(info.tiny))
        return Bounded(made, dtype, bool(units) and dtype in NARROW)

    def _convert(self, instruction: Instruction, arg: Bounded) -> Bounded:
        dtype = instruction.dtype
        if arg.dtype not in _FLOATS or dtype not in _FLOATS:
            bounds = self.rounded(arg)
            if dtype not in _FLOATS:
                if arg.dtype != "bool" and not known(arg.bounds):
                    raise Unbounded("convert")  # whole numbers may wrap around
                ends = rising(lambda end: evaluate_instruction(instruction, [end]))(bounds)
                return Bounded(ends, dtype, False)
            wide = rising(lambda end: end.astype(jnp.float32))(bounds)
            if arg.dtype == "bool":
                return Bounded(wide, dtype, False)
            return Bounded(widened(wide, _UNIT), dtype, dtype in NARROW)
        if arg.rounds and instruction.value in ("at once", "elsewhere"):
            sure = self.arithmetic.keeps_rounding and instruction.value == "at once"
            if sure and arg.dtype == "bfloat16":
                return Bounded(arg.bounds, dtype, dtype in NARROW)  # XLA drops the rounding in between
            return Bounded(union(arg.bounds, _round(arg.bounds, arg.dtype)), dtype, dtype in NARROW)
        return Bounded(self.rounded(arg), dtype, dtype in NARROW)

    def rounded(self, value: Bounded) -> Enclosure:
        """The bounds after the rounding of its own type."""
        if not value.rounds:
            return value.bounds
        rounded = _round(value.bounds, value.dtype)
        return rounded if self.arithmetic.keeps_rounding else union(value.bounds, rounded)


def as_input(bounds: Enclosure, dtype: str) -> Bounded:
    """Bounds of a value in the author's type; points are known as they are stored."""
    if dtype not in _FLOATS:
        return Bounded(bounds, dtype, False)
    exact = bounds.low is bounds.high
    wide = Enclosure(*(jnp.asarray(end).astype(jnp.float32) for end in (bounds.low, bounds.high)))
    if exact:
        wide = widened(point(wide.low), _UNIT) if dtype == "float64" else point(wide.low)
    return Bounded(wide, dtype, dtype in NARROW and not exact)


def rounding(instruction: Instruction) -> Callable[[Enclosure], Enclosure]:
    """The rule of a ``reduce_precision``."""
    exponent, mantissa = map(int, str(instruction.value).split("/"))
    return rising(lambda end: lax.reduce_precision(end, exponent_bits=exponent, mantissa_bits=mantissa))


def _constant(instruction: Instruction) -> Bounded:
    if instruction.dtype not in _FLOATS:
        return Bounded(point(evaluate_instruction(instruction, [])), instruction.dtype, False)
    value = jnp.asarray(instruction.value, instruction.dtype).astype(jnp.float32)
    bounds = widened(point(value), _UNIT) if instruction.dtype == "float64" else point(value)
    return Bounded(bounds, instruction.dtype, False)


def _round(bounds: Enclosure, dtype: str) -> Enclosure:
    # As an operation of its own: XLA would drop the two conversions.
    info = jnp.finfo(NARROW[dtype])

    def narrow(value: Any) -> Any:
        return lax.reduce_precision(value, exponent_bits=info.nexp, mantissa_bits=info.nmant)

    low, high = narrow(bounds.low), narrow(bounds.high)
    if dtype == "float16":  # of its subnormal numbers `reduce_precision` makes zeros
        step = float(info.smallest_subnormal)
        low = jnp.where(jnp.abs(bounds.low) < 2 * float(info.tiny), bounds.low - step, low)
        high = jnp.where(jnp.abs(bounds.high) < 2 * float(info.tiny), bounds.high + step, high)
    return Enclosure(low, high)
