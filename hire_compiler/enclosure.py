"""Enclosures: between which numbers the author's elementwise code comes out, for inputs known to lie between bounds.

Interval arithmetic over an :class:`~hire_compiler.expression.Expression`, in float32 and rounded outward. What a dense
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

from hire_compiler.expression import Expression, Instruction, evaluate_instruction
from hire_compiler.runtime.target import Target

NARROW = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}
_FLOATS = frozenset({"bfloat16", "float16", "float32", "float64"})
_UNIT = 2.0**-23
TINY = 2.0**-124  # more than a few operations lose whose results are flushed to zero

# How far a float32 operation is from the real number at most, in units of 2⁻²³ of the result. Measured on XLA:CPU over
# all magnitudes (tanh 2.4, logistic 1.2, exp 0.7, expm1 3.1, log 1.0, log1p 1.8, erf 2.8, erfc 9.8), then at least
# doubled, because both what is computed here and what dense computes may be off. Sums and products may be contracted,
# reassociated with constants, or divided by a reciprocal.
CPU_UNITS: Mapping[str, float] = {
    "add": 4, "subtract": 4, "multiply": 4, "divide": 4, "chlo.square": 4, "sqrt": 4, "rsqrt": 4, "cbrt": 4,
    "exponential": 4, "exponential_minus_one": 8, "log": 4, "log_plus_one": 6, "logistic": 4, "tanh": 8,
    "chlo.erf": 8, "chlo.erfc": 32, "power": 32,
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
      keeps_rounding: a bfloat16 value that is read as such is rounded to bfloat16, and one that the author widens at
        once is not (``xla_allow_excess_precision``); False: either may happen anywhere.
    """

    units: Mapping[str, float]
    keeps_rounding: bool


def arithmetic_for(target: Target) -> Arithmetic:
    """What is known of a platform's compiler."""
    factor = target.elementwise_error
    units = CPU_UNITS if factor == 1 else {op: factor * units for op, units in CPU_UNITS.items()}
    return Arithmetic(units, target.keeps_rounding)


@dataclass(frozen=True)
class Enclosure:
    """Arrays between which every number lies; of booleans: surely true, and possibly true."""

    low: Any
    high: Any


def point(value: Any) -> Enclosure:
    """What is known exactly."""
    return Enclosure(value, value)


def around(value: Any, slack: Any) -> Enclosure:
    """A value and how far it may be off; where that is not finite, it may be anything, NaN too."""
    return _unless(jnp.logical_not(jnp.isfinite(slack)), Enclosure(value - slack, value + slack))


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
    return _Evaluation(expression, arithmetic).run(inputs, dtypes)


def why_unbounded(expression: Expression) -> str:
    """The first operation that :func:`enclose` has no bounds for; or ''."""
    # Of every value: whether it follows from the logits (the first input), and its type, where that is known.
    values: list[tuple[bool, str]] = [(i == 0, "") for i in range(expression.inputs)]
    for instruction in expression.instructions:
        op, args = instruction.op, [values[i] for i in instruction.args]
        if not (op in _RULES or op in ("constant", "compare", "convert")):
            return op
        uncertain = any(follows for follows, _ in args)
        whole = instruction.dtype not in _FLOATS and instruction.dtype != "bool"
        if uncertain and whole and op != "select" and not (op == "convert" and args[0][1] == "bool"):
            return f"{op} of whole numbers"
        if uncertain and op == "convert" and instruction.dtype == "bool" and args[0][1] != "bool":
            return "convert to bool"
        values.append((uncertain, instruction.dtype))
    return ""


@dataclass
class _Value:
    """A value on the way: its bounds before its own rounding, its type, and whether a rounding is still to come."""

    bounds: Enclosure
    dtype: str
    rounds: bool


class _Evaluation:
    def __init__(self, expression: Expression, arithmetic: Arithmetic) -> None:
        self._expression = expression
        self._arithmetic = arithmetic
        narrow = [i for i in expression.instructions if i.dtype in NARROW and i.op in arithmetic.units]
        # Several narrow operations may be merged into one of other constants (z / 30 is a product with a rounded 1/30),
        # which rounds otherwise.
        self._loose = len(narrow) > 1 or any(i.op == "divide" for i in narrow)

    def run(self, inputs: Sequence[Enclosure], dtypes: Sequence[str]) -> Enclosure:
        values = [_input(bounds, dtype) for bounds, dtype in zip(inputs, dtypes, strict=True)]
        for instruction in self._expression.instructions:
            values.append(self._next(instruction, [values[i] for i in instruction.args]))
        return self._rounded(values[self._expression.output])

    def _next(self, instruction: Instruction, args: list[_Value]) -> _Value:
        op, dtype = instruction.op, instruction.dtype
        if op == "constant":
            return _constant(instruction)
        if op == "convert":
            return self._convert(instruction, args[0])
        if op == "compare":
            return _Value(_compare(str(instruction.value), *map(self._rounded, args)), dtype, False)
        bounds = [self._rounded(arg) for arg in args]
        logical = op == "select" or (dtype == "bool" and op in ("and", "or", "not", "is_finite"))
        if dtype not in _FLOATS and not logical:
            if not _known(*bounds):
                raise Unbounded(op)
            return _Value(point(evaluate_instruction(instruction, [b.low for b in bounds])), dtype, False)
        rule = _RULES.get(op)
        if rule is None:
            raise Unbounded(op)
        if op == "multiply" and instruction.args[0] == instruction.args[1]:
            rule, bounds = _square, bounds[:1]
        units = self._arithmetic.units.get(op, 0.0)
        made = _widened(rule(*bounds), units * _UNIT) if units else rule(*bounds)
        if units and dtype in NARROW and (self._loose or dtype == "float16" or op in _COMPOSED):
            info = jnp.finfo(NARROW[dtype])
            steps = 4 if op in _COMPOSED else 1
            made = _widened(made, steps * float(info.eps), 2 * float(info.tiny))
        return _Value(made, dtype, bool(units) and dtype in NARROW)

    def _convert(self, instruction: Instruction, arg: _Value) -> _Value:
        dtype = instruction.dtype
        if arg.dtype not in _FLOATS or dtype not in _FLOATS:
            bounds = self._rounded(arg)
            if dtype not in _FLOATS:
                if arg.dtype != "bool" and not _known(arg.bounds):
                    raise Unbounded("convert")  # whole numbers may wrap around
                ends = _rising(lambda end: evaluate_instruction(instruction, [end]))(bounds)
                return _Value(ends, dtype, False)
            wide = _rising(lambda end: end.astype(jnp.float32))(bounds)
            if arg.dtype == "bool":
                return _Value(wide, dtype, False)
            return _Value(_widened(wide, _UNIT), dtype, dtype in NARROW)
        if arg.rounds and instruction.value == "adjacent":
            if self._arithmetic.keeps_rounding and arg.dtype == "bfloat16":
                return _Value(arg.bounds, dtype, dtype in NARROW)  # XLA drops the rounding in between
            return _Value(_union(arg.bounds, _round(arg.bounds, arg.dtype)), dtype, dtype in NARROW)
        return _Value(self._rounded(arg), dtype, dtype in NARROW)

    def _rounded(self, value: _Value) -> Enclosure:
        if not value.rounds:
            return value.bounds
        rounded = _round(value.bounds, value.dtype)
        return rounded if self._arithmetic.keeps_rounding else _union(value.bounds, rounded)


def _input(bounds: Enclosure, dtype: str) -> _Value:
    if dtype not in _FLOATS:
        return _Value(bounds, dtype, False)
    exact = bounds.low is bounds.high
    wide = Enclosure(*(jnp.asarray(end).astype(jnp.float32) for end in (bounds.low, bounds.high)))
    if exact:
        wide = _widened(point(wide.low), _UNIT) if dtype == "float64" else point(wide.low)
    return _Value(wide, dtype, dtype in NARROW and not exact)


def _constant(instruction: Instruction) -> _Value:
    if instruction.dtype not in _FLOATS:
        return _Value(point(evaluate_instruction(instruction, [])), instruction.dtype, False)
    value = jnp.asarray(instruction.value, instruction.dtype).astype(jnp.float32)
    bounds = _widened(point(value), _UNIT) if instruction.dtype == "float64" else point(value)
    return _Value(bounds, instruction.dtype, False)


def _widened(bounds: Enclosure, relative: float, absolute: float = TINY) -> Enclosure:
    low, high = bounds.low, bounds.high
    return Enclosure(
        jnp.where(jnp.isfinite(low), low - (jnp.abs(low) * relative + absolute), low),
        jnp.where(jnp.isfinite(high), high + (jnp.abs(high) * relative + absolute), high),
    )


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


def _union(*bounds: Enclosure) -> Enclosure:
    low, high = bounds[0].low, bounds[0].high
    for other in bounds[1:]:
        low, high = jnp.minimum(low, other.low), jnp.maximum(high, other.high)
    return Enclosure(low, high)


# --------------------------------------------------------------------------- rules


def _known(*bounds: Enclosure) -> bool:
    """Whether all of them are points."""
    return all(b.low is b.high for b in bounds)


def _rising(function: Callable[..., Any]) -> Callable[..., Enclosure]:
    def rule(*args: Enclosure) -> Enclosure:
        low = function(*(a.low for a in args))
        return Enclosure(low, low if _known(*args) else function(*(a.high for a in args)))

    return rule


def _unless(nan: Any, bounds: Enclosure) -> Enclosure:
    """Bounds, but NaN where a number may be NaN: operations that follow could lose one bound of the two."""
    return Enclosure(jnp.where(nan, jnp.nan, bounds.low), jnp.where(nan, jnp.nan, bounds.high))


def _from_zero(rule: Callable[[Enclosure], Enclosure]) -> Callable[[Enclosure], Enclosure]:
    """The rule of a function that is NaN below some number, for bounds that may stand on both sides of it."""

    def made(arg: Enclosure) -> Enclosure:
        bounds = rule(arg)
        return bounds if _known(arg) else _unless(jnp.isnan(bounds.low) | jnp.isnan(bounds.high), bounds)

    return made


def _holds_zero(a: Enclosure) -> Any:
    return jnp.logical_not((a.low > 0) | (a.high < 0))


def _infinite(a: Enclosure) -> Any:
    return jnp.isinf(a.low) | jnp.isinf(a.high)


def _falling(function: Callable[..., Any]) -> Callable[..., Enclosure]:
    def rule(arg: Enclosure) -> Enclosure:
        low = function(arg.high)
        return Enclosure(low, low if _known(arg) else function(arg.low))

    return rule


def _corners(function: Callable[[Any, Any], Any], a: Enclosure, b: Enclosure) -> Enclosure:
    """The extremes of a function that is monotone in each operand stand at the corners."""
    lefts = [a.low] if _known(a) else [a.low, a.high]
    rights = [b.low] if _known(b) else [b.low, b.high]
    return _union(*(point(function(x, y)) for x in lefts for y in rights))


def _multiply(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _corners(jnp.multiply, a, b)
    if _known(a, b):
        return made
    return _unless((_holds_zero(a) & _infinite(b)) | (_infinite(a) & _holds_zero(b)), made)


def _divide(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _corners(jnp.divide, a, b)
    if _known(a, b):
        return made
    nan = _holds_zero(b) & _holds_zero(a) if _known(b) else _holds_zero(b)
    return _unless(nan | (_infinite(a) & _infinite(b)), made)


def _power(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _corners(jnp.power, a, b)
    above = (a.low > 0) & jnp.isfinite(b.low) & jnp.isfinite(b.high)
    return _unless(jnp.logical_not(above), made)


def _add(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _rising(jnp.add)(a, b)
    if _known(a, b):
        return made
    opposite = ((a.low == -jnp.inf) & (b.high == jnp.inf)) | ((a.high == jnp.inf) & (b.low == -jnp.inf))
    return _unless(opposite, made)


def _subtract(a: Enclosure, b: Enclosure) -> Enclosure:
    return _add(a, _falling(jnp.negative)(b))


def _absolute(a: Enclosure) -> Enclosure:
    high = jnp.maximum(jnp.abs(a.low), jnp.abs(a.high))
    low = jnp.maximum(jnp.maximum(a.low, -a.high), 0)
    return Enclosure(low, high)


def _square(a: Enclosure) -> Enclosure:
    size = _absolute(a)
    return Enclosure(size.low * size.low, size.high * size.high)


def _select(check: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
    if _known(check):
        return Enclosure(jnp.where(check.low, a.low, b.low), jnp.where(check.low, a.high, b.high))
    either = _union(a, b)
    return Enclosure(
        jnp.where(check.low, a.low, jnp.where(check.high, either.low, b.low)),
        jnp.where(check.low, a.high, jnp.where(check.high, either.high, b.high)),
    )


def _is_finite(a: Enclosure) -> Enclosure:
    sure = jnp.isfinite(a.low) & jnp.isfinite(a.high)
    return Enclosure(sure, jnp.ones_like(sure))


def _compare(direction: str, a: Enclosure, b: Enclosure) -> Enclosure:
    """Surely and possibly true; a NaN makes nothing sure."""
    if direction in ("GT", "GE"):
        return _compare({"GT": "LT", "GE": "LE"}[direction], b, a)
    if direction == "LT":
        return Enclosure(a.high < b.low, jnp.logical_not(a.low >= b.high))
    if direction == "LE":
        return Enclosure(a.high <= b.low, jnp.logical_not(a.low > b.high))
    surely = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
    possibly = jnp.logical_not((a.high < b.low) | (b.high < a.low))
    if direction == "EQ":
        return Enclosure(surely, possibly)
    return Enclosure(jnp.logical_not(possibly), jnp.logical_not(surely))


_RULES: dict[str, Callable[..., Enclosure]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "power": _power,
    "maximum": _rising(jnp.maximum),
    "minimum": _rising(jnp.minimum),
    "clamp": _rising(lambda low, x, high: jnp.minimum(jnp.maximum(low, x), high)),
    "negate": _falling(jnp.negative),
    "abs": _absolute,
    "sign": _rising(jnp.sign),
    "floor": _rising(jnp.floor),
    "ceil": _rising(jnp.ceil),
    "chlo.square": _square,
    "sqrt": _from_zero(_rising(jnp.sqrt)),
    "rsqrt": _from_zero(_falling(lax.rsqrt)),
    "cbrt": _rising(jnp.cbrt),
    "exponential": _rising(jnp.exp),
    "exponential_minus_one": _rising(jnp.expm1),
    "log": _from_zero(_rising(jnp.log)),
    "log_plus_one": _from_zero(_rising(jnp.log1p)),
    "logistic": _rising(lax.logistic),
    "tanh": _rising(jnp.tanh),
    "chlo.erf": _rising(lax.erf),
    "chlo.erfc": _falling(lax.erfc),
    "select": _select,
    "and": _rising(jnp.logical_and),
    "or": _rising(jnp.logical_or),
    "not": _falling(jnp.logical_not),
    "is_finite": _is_finite,
}
