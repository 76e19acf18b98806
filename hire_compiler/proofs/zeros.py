"""Which results of elementwise code are *proven* to be exactly zero, whatever its other inputs are.

Abstract interpretation: beside every value stands where it is certainly ±0, and between which numbers it lies. A
product is zero where one factor is and the other is finite; a choice follows its predicate; a sum of two zeros is
zero; and so on. An operation that is not listed proves nothing. The same rules run under NumPy, to see whether a
block has zeros to offer at all, and under JAX in the rewritten step, on the block's own numbers.

Limits are widened after every operation by more than any type or implementation here rounds, and a limit that may
overflow in the type of its value is infinite. A value with an infinite limit may be anything, NaN included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from hire_compiler.graph.expression import Expression, Instruction, Stages

_WIDER = 2.0**-6  # relative; a bfloat16 rounds by 2⁻⁹, a fast exponential errs by less
_APART = 1e-30  # from zero: what is nearer may be flushed to it
_LARGEST_INTEGER = 2.0**63


@dataclass(frozen=True)
class Known:
    """What is known of a value; arrays that broadcast against each other, or numbers.

    Attributes:
      zero: where it is ±0.
      low, high: what it lies between; truth values are 0 and 1.
      floor: what it is not below, even where it may have overflowed: it is no NaN there, but may be +∞.
    """

    zero: Any
    low: Any
    high: Any
    floor: Any = -np.inf


def exactly(value: Any, xp: ModuleType = jnp) -> Known:
    """A value that is at hand."""
    number = xp.asarray(value)
    if not jnp.issubdtype(number.dtype, jnp.integer):
        wide = number.astype(jnp.promote_types(number.dtype, jnp.float32)) if number.dtype != bool else number * 1.0
        return Known(number == 0, wide, wide)
    wide = number.astype(jnp.float32)
    return Known(number == 0, wide - abs(wide) * _WIDER, wide + abs(wide) * _WIDER)


def within(limit: Any) -> Known:
    """A value of at most that size."""
    return Known(False, -limit, limit)


def proven_zero(expression: Expression, known: Mapping[int, Known], xp: ModuleType = jnp) -> Any:
    """Where the result is certainly ±0: bool, of a shape that broadcasts to that of the result.

    Args:
      known: of every input and of those computed values that more is known of than their operands tell; values have
        the numbers of the expression.
      xp: ``jax.numpy`` or ``numpy``, which the arrays belong to.
    """
    facts = dict(known)
    for at, instruction in enumerate(expression.instructions, start=expression.inputs):
        if at not in facts and all(i in facts for i in instruction.args):
            with np.errstate(all="ignore"):
                facts[at] = derive(instruction, [facts[i] for i in instruction.args], xp)
    return facts[expression.output].zero


def sums(expression: Expression, one: int, other: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The values that are the sum of two inputs, converted or not; and the types that it passes through."""
    follows = {one: {one}, other: {other}}
    dtypes, found = [], []
    for at, instruction in enumerate(expression.instructions, start=expression.inputs):
        for members in follows.values():
            if instruction.op == "convert" and instruction.args[0] in members:
                members.add(at)
                dtypes.append(instruction.dtype)
        if instruction.op == "add":
            a, b = instruction.args
            if (a in follows[one] and b in follows[other]) or (b in follows[one] and a in follows[other]):
                found.append(at)
                dtypes.append(instruction.dtype)
    return tuple(found), tuple(dtypes)


class GateStages(Stages):
    """The code of a block, cut in two: what follows from its gate, and the rest; and what that says of the result."""

    def zero(self, known: Mapping[int, Any], limits: Mapping[int, Any], xp: ModuleType = jnp) -> Any:
        """Where the result is certainly zero.

        Args:
          known: what :meth:`first` gave.
          limits: of every late input, what its absolute value does not exceed.
        """
        facts = {i: exactly(value, xp) for i, value in known.items()}
        return proven_zero(self.expression, facts | {i: within(limit) for i, limit in limits.items()}, xp)


@dataclass(frozen=True)
class NegativeGate:
    """What follows for a block from the sign of one of its products, a bias added.

    Attributes:
      gate: the input that is the product.
      bias: the input that is added to it, or None.
      points: the values of the expression that are this sum; of a product alone, the input itself.
      dtypes: types that the sum and its parts pass through.
    """

    expression: Expression
    gate: int
    bias: int | None
    points: tuple[int, ...]
    dtypes: tuple[str, ...]

    def zero(
        self,
        negative: Any,
        limit: Any,
        limits: Mapping[int, Any],
        vectors: Mapping[int, Any],
        xp: ModuleType = jnp,
    ) -> Any:
        """Where the result is certainly zero.

        Args:
          negative: where the sum is certainly below −1e-12.
          limit: what the absolute value of the sum does not exceed there.
          limits: the same of every product, the gate's too.
          vectors: the other inputs.
        """
        facts = {i: within(size) for i, size in limits.items()}
        facts |= {i: exactly(vector, xp) for i, vector in vectors.items()}
        point = Known(False, xp.where(negative, -limit, -np.inf), xp.where(negative, -1e-12, np.inf))
        return proven_zero(self.expression, facts | dict.fromkeys(self.points, point), xp)


def negative_gate(expression: Expression, gate: int, bias: int | None) -> NegativeGate:
    """The sum of a product (input ``gate``) and its bias, if it has one, wherever the expression makes it."""
    if bias is None:
        return NegativeGate(expression, gate, None, (gate,), ())
    return NegativeGate(expression, gate, bias, *sums(expression, gate, bias))


# --------------------------------------------------------------------------- one operation


def derive(instruction: Instruction, args: list[Known], xp: ModuleType) -> Known:
    """What is known of the result of one elementwise operation."""
    if instruction.op == "constant":
        return exactly(instruction.value, xp)
    if instruction.op == "convert" and instruction.dtype == "bool":
        return Known(args[0].zero, 0.0, 1.0)
    rule = _RULES.get(instruction.op)
    if instruction.op == "compare":
        return _compare(str(instruction.value), args[0], args[1], xp)
    if rule is None:
        return Known(False, -np.inf, np.inf)
    if instruction.op in ("and", "or", "not") and instruction.dtype != "bool":
        zero = rule(xp, *args).zero if instruction.op != "not" else False
        return Known(zero, -_LARGEST_INTEGER, _LARGEST_INTEGER)
    return rounded(rule(xp, *args), instruction, xp)


def rounded(exact: Known, instruction: Instruction, xp: ModuleType) -> Known:
    """What holds of an exact result after the operation has rounded it; limits are infinite where it may overflow."""
    dtype = instruction.dtype
    if dtype == "bool":
        return exact
    if not dtype.startswith(("float", "bfloat")):
        # Integers are always finite; what overflows wraps.
        return Known(exact.zero, -_LARGEST_INTEGER, _LARGEST_INTEGER)
    info = jnp.finfo(dtype)
    wider, largest = max(_WIDER, 2 * float(info.eps)), float(info.max)
    if instruction.op == "reduce_precision":
        exponent, mantissa = map(int, str(instruction.value).split("/"))
        wider, largest = max(wider, 2.0**-mantissa), min(largest, 2.0 ** (2 ** (exponent - 1) - 1))
    low, high = exact.low - wider * abs(exact.low), exact.high + wider * abs(exact.high)
    bounded = (low > -0.9 * largest) & (high < 0.9 * largest)  # of a NaN neither is true
    low, high = xp.where(bounded, low, -np.inf), xp.where(bounded, high, np.inf)
    floor = exact.floor - wider * abs(exact.floor)
    return Known(exact.zero, xp.where(exact.zero, 0.0, low), xp.where(exact.zero, 0.0, high), floor)


def _finite(x: Known, xp: ModuleType) -> Any:
    return xp.isfinite(x.low) & xp.isfinite(x.high)


def _not_zero(x: Known, xp: ModuleType) -> Any:
    return ((x.low > _APART) | (x.high < -_APART)) & _finite(x, xp)


def _multiply(xp: ModuleType, a: Known, b: Known) -> Known:
    zero = (a.zero & _finite(b, xp)) | (b.zero & _finite(a, xp))
    corners = [a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]
    return Known(zero, _least(corners, xp), _most(corners, xp))


def _floor(x: Known, xp: ModuleType) -> Any:
    return xp.where(_finite(x, xp), x.low, x.floor)


def _divide(xp: ModuleType, a: Known, b: Known) -> Known:
    safe, floor = _not_zero(b, xp), _floor(b, xp)
    large = (floor > _APART) & _finite(a, xp) & ~safe  # 1 / (1 + exp(−z)): nothing is lost where exp overflows
    low, high = xp.where(safe, b.low, xp.where(large, floor, 1.0)), xp.where(safe, b.high, np.inf)
    safe, high = safe | large, xp.where(safe | large, high, 1.0)
    corners = [a.low / low, a.low / high, a.high / low, a.high / high]
    return Known(
        a.zero & safe, xp.where(safe, _least(corners, xp), -np.inf), xp.where(safe, _most(corners, xp), np.inf)
    )


def _add(xp: ModuleType, a: Known, b: Known) -> Known:
    return Known(a.zero & b.zero, a.low + b.low, a.high + b.high, _floor(a, xp) + _floor(b, xp))


def _negate(xp: ModuleType, a: Known) -> Known:
    return Known(a.zero, -a.high, -a.low)


def _subtract(xp: ModuleType, a: Known, b: Known) -> Known:
    return _add(xp, a, _negate(xp, b))


def _maximum(xp: ModuleType, a: Known, b: Known) -> Known:
    both = _finite(a, xp) & _finite(b, xp)
    zero = (a.zero & b.zero) | (a.zero & (b.high <= 0) & both) | (b.zero & (a.high <= 0) & both)
    low, high = xp.maximum(a.low, b.low), xp.maximum(a.high, b.high)
    return Known(zero, xp.where(both, low, -np.inf), xp.where(both, high, np.inf))


def _minimum(xp: ModuleType, a: Known, b: Known) -> Known:
    return _negate(xp, _maximum(xp, _negate(xp, a), _negate(xp, b)))


def _clamp(xp: ModuleType, low: Known, x: Known, high: Known) -> Known:
    return _minimum(xp, _maximum(xp, x, low), high)


def _abs(xp: ModuleType, a: Known) -> Known:
    return Known(a.zero, xp.maximum(xp.maximum(a.low, -a.high), 0.0), xp.maximum(abs(a.low), abs(a.high)))


def _square(xp: ModuleType, a: Known) -> Known:
    size = _abs(xp, a)
    return Known(a.zero, size.low * size.low, size.high * size.high)


def _power(xp: ModuleType, a: Known, b: Known) -> Known:
    positive = (a.low > _APART) & _finite(a, xp) & _finite(b, xp)
    low, high = xp.log(xp.where(positive, a.low, 1.0)), xp.log(xp.where(positive, a.high, 1.0))
    exponents = _multiply(xp, Known(False, low, high), b)
    zero = a.zero & (b.low > _APART) & _finite(b, xp)
    wide = 2.0**-6 * (abs(exponents.low) + abs(exponents.high))  # an error of the exponent is one of the power's size
    least, most = xp.exp(exponents.low - wide), xp.exp(exponents.high + wide)
    return Known(zero, xp.where(positive, least, -np.inf), xp.where(positive, most, np.inf))


def _select(xp: ModuleType, p: Known, a: Known, b: Known) -> Known:
    surely = p.low >= 1
    zero = xp.where(p.zero, b.zero, xp.where(surely, a.zero, a.zero & b.zero))
    low = xp.where(p.zero, b.low, xp.where(surely, a.low, xp.minimum(a.low, b.low)))
    high = xp.where(p.zero, b.high, xp.where(surely, a.high, xp.maximum(a.high, b.high)))
    return Known(zero, low, high)


def _compare(direction: str, a: Known, b: Known, xp: ModuleType) -> Known:
    comparable = _finite(a, xp) & _finite(b, xp)
    less, greater = a.high < b.low, a.low > b.high
    at_most, at_least = a.high <= b.low, a.low >= b.high
    same = a.zero & b.zero
    never, always = {
        "LT": (at_least, less),
        "LE": (greater, at_most),
        "GT": (at_most, greater),
        "GE": (less, at_least),
        "EQ": (less | greater, same),
        "NE": (same, less | greater),
    }[direction]
    never, always = never & comparable, always & comparable
    return Known(never, xp.where(always, 1.0, 0.0), xp.where(never, 0.0, 1.0))


def _and(xp: ModuleType, a: Known, b: Known) -> Known:
    return Known(a.zero | b.zero, xp.minimum(a.low, b.low), xp.minimum(a.high, b.high))


def _or(xp: ModuleType, a: Known, b: Known) -> Known:
    return Known(a.zero & b.zero, xp.maximum(a.low, b.low), xp.maximum(a.high, b.high))


def _not(xp: ModuleType, a: Known) -> Known:
    return Known(a.low >= 1, 1.0 - a.high, 1.0 - a.low)


def _sqrt(xp: ModuleType, a: Known) -> Known:
    safe = (a.low >= 0) & _finite(a, xp)
    low, high = (xp.sqrt(xp.where(safe, end, 1.0)) for end in (a.low, a.high))
    return Known(a.zero, xp.where(safe, low, -np.inf), xp.where(safe, high, np.inf))


def _rsqrt(xp: ModuleType, a: Known) -> Known:
    safe = (a.low > _APART) & _finite(a, xp)
    low, high = 1 / xp.sqrt(xp.where(safe, a.high, 1.0)), 1 / xp.sqrt(xp.where(safe, a.low, 1.0))
    return Known(False, xp.where(safe, low, -np.inf), xp.where(safe, high, np.inf))


Rule = Callable[..., Known]


def _rising(function: str, above: float = -np.inf, floor: float = -np.inf) -> Rule:
    """A function that rises where its argument is above a number, and is not defined elsewhere; its least value."""

    def rule(xp: ModuleType, a: Known) -> Known:
        defined = (a.low > above) & _finite(a, xp)
        low, high = (getattr(xp, function)(xp.where(defined, end, 1.0)) for end in (a.low, a.high))
        low, high = xp.where(defined, low, -np.inf), xp.where(defined, high, np.inf)
        return Known(False, low, high, xp.where(defined, floor, -np.inf))

    return rule


def _between(low: float, high: float, *, keeps_zero: bool = False) -> Rule:
    """A function whose values lie between two numbers, wherever its argument is finite."""

    def rule(xp: ModuleType, *args: Known) -> Known:
        defined = _finite(args[0], xp)
        for arg in args[1:]:
            defined &= _finite(arg, xp)
        zero = args[0].zero if keeps_zero else False
        return Known(zero, xp.where(defined, low, -np.inf), xp.where(defined, high, np.inf))

    return rule


def _whole(xp: ModuleType, a: Known) -> Known:
    return Known(a.zero, a.low - 1, a.high + 1)


def _least(values: list[Any], xp: ModuleType) -> Any:
    return xp.minimum(xp.minimum(values[0], values[1]), xp.minimum(values[2], values[3]))


def _most(values: list[Any], xp: ModuleType) -> Any:
    return xp.maximum(xp.maximum(values[0], values[1]), xp.maximum(values[2], values[3]))


_RULES: dict[str, Rule] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "maximum": _maximum,
    "minimum": _minimum,
    "clamp": _clamp,
    "power": _power,
    "negate": _negate,
    "abs": _abs,
    "chlo.square": _square,
    "select": _select,
    "and": _and,
    "or": _or,
    "not": _not,
    "convert": lambda xp, a: a,
    "reduce_precision": lambda xp, a: a,
    "sign": _between(-1, 1, keeps_zero=True),
    "floor": _whole,
    "ceil": _whole,
    "round_nearest_even": _whole,
    "round_nearest_afz": _whole,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "cbrt": _rising("cbrt"),
    "exponential": _rising("exp", floor=0.0),
    "exponential_minus_one": _rising("expm1"),
    "log": _rising("log", _APART),
    "log_plus_one": _rising("log1p", -1 + _WIDER),
    "tanh": _between(-1, 1, keeps_zero=True),
    "logistic": _between(0, 1),
    "chlo.erf": _between(-1, 1),
    "chlo.erfc": _between(0, 2),
    "sine": _between(-1, 1),
    "cosine": _between(-1, 1),
    "atan2": _between(-4, 4),
    "is_finite": _between(0, 1),
    "chlo.asinh": _rising("arcsinh"),
}
