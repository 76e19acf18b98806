"""Intervals: what elementwise operations make of numbers that are only known to lie between bounds.

Real arithmetic on bounds; whoever evaluates code adds how far a compiler's operations are off. A number that is NaN, or
may be, has NaN for both bounds: an operation that follows could lose one of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

TINY = 2.0**-124  # more than a few operations lose whose results are flushed to zero


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


def widened(bounds: Enclosure, relative: float, absolute: float = TINY) -> Enclosure:
    """Bounds moved outward by a share of themselves and a little more; infinite ones stay."""
    low, high = bounds.low, bounds.high
    return Enclosure(
        jnp.where(jnp.isfinite(low), low - (jnp.abs(low) * relative + absolute), low),
        jnp.where(jnp.isfinite(high), high + (jnp.abs(high) * relative + absolute), high),
    )


def union(*bounds: Enclosure) -> Enclosure:
    """What holds all of some enclosures."""
    low, high = bounds[0].low, bounds[0].high
    for other in bounds[1:]:
        low, high = jnp.minimum(low, other.low), jnp.maximum(high, other.high)
    return Enclosure(low, high)


def known(*bounds: Enclosure) -> bool:
    """Whether all of them are points."""
    return all(b.low is b.high for b in bounds)


def rising(function: Callable[..., Any]) -> Callable[..., Enclosure]:
    """The rule of a function that rises with every operand."""

    def rule(*args: Enclosure) -> Enclosure:
        low = function(*(a.low for a in args))
        return Enclosure(low, low if known(*args) else function(*(a.high for a in args)))

    return rule


def _unless(nan: Any, bounds: Enclosure) -> Enclosure:
    """Bounds, but NaN where a number may be NaN: operations that follow could lose one bound of the two."""
    return Enclosure(jnp.where(nan, jnp.nan, bounds.low), jnp.where(nan, jnp.nan, bounds.high))


def _from_zero(rule: Callable[[Enclosure], Enclosure]) -> Callable[[Enclosure], Enclosure]:
    """The rule of a function that is NaN below some number, for bounds that may stand on both sides of it."""

    def made(arg: Enclosure) -> Enclosure:
        bounds = rule(arg)
        return bounds if known(arg) else _unless(jnp.isnan(bounds.low) | jnp.isnan(bounds.high), bounds)

    return made


def _holds_zero(a: Enclosure) -> Any:
    return jnp.logical_not((a.low > 0) | (a.high < 0))


def _infinite(a: Enclosure) -> Any:
    return jnp.isinf(a.low) | jnp.isinf(a.high)


def _falling(function: Callable[..., Any]) -> Callable[..., Enclosure]:
    def rule(arg: Enclosure) -> Enclosure:
        low = function(arg.high)
        return Enclosure(low, low if known(arg) else function(arg.low))

    return rule


def _corners(function: Callable[[Any, Any], Any], a: Enclosure, b: Enclosure) -> Enclosure:
    """The extremes of a function that is monotone in each operand stand at the corners."""
    lefts = [a.low] if known(a) else [a.low, a.high]
    rights = [b.low] if known(b) else [b.low, b.high]
    return union(*(point(function(x, y)) for x in lefts for y in rights))


def _multiply(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _corners(jnp.multiply, a, b)
    if known(a, b):
        return made
    return _unless((_holds_zero(a) & _infinite(b)) | (_infinite(a) & _holds_zero(b)), made)


def _divide(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _corners(jnp.divide, a, b)
    if known(a, b):
        return point(jnp.where(_no_reciprocal(b.low), jnp.nan, made.low))
    nan = _holds_zero(b) & _holds_zero(a) if known(b) else _holds_zero(b)
    unsure = _no_reciprocal(b.low) | _no_reciprocal(b.high)
    return _unless(nan | unsure | (_infinite(a) & _infinite(b)), made)


def _no_reciprocal(divisor: Any) -> Any:
    """Where dividing by a reciprocal, as XLA may, goes wrong: one of the two is so small that it is flushed to zero."""
    size = jnp.abs(divisor)
    return (jnp.isfinite(size) & (size > 2.0**125)) | ((size > 0) & (size < 2.0**-125))


def _power(a: Enclosure, b: Enclosure) -> Enclosure:
    made = _corners(jnp.power, a, b)
    above = (a.low > 0) & jnp.isfinite(b.low) & jnp.isfinite(b.high)
    return _unless(jnp.logical_not(above), made)


def _add(a: Enclosure, b: Enclosure) -> Enclosure:
    made = rising(jnp.add)(a, b)
    if known(a, b):
        return made
    opposite = ((a.low == -jnp.inf) & (b.high == jnp.inf)) | ((a.high == jnp.inf) & (b.low == -jnp.inf))
    return _unless(opposite, made)


def _subtract(a: Enclosure, b: Enclosure) -> Enclosure:
    return _add(a, _falling(jnp.negative)(b))


def _absolute(a: Enclosure) -> Enclosure:
    high = jnp.maximum(jnp.abs(a.low), jnp.abs(a.high))
    low = jnp.maximum(jnp.maximum(a.low, -a.high), 0)
    return Enclosure(low, high)


def square(a: Enclosure) -> Enclosure:
    """A number times itself."""
    size = _absolute(a)
    return Enclosure(size.low * size.low, size.high * size.high)


def _select(check: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
    if known(check):
        return Enclosure(jnp.where(check.low, a.low, b.low), jnp.where(check.low, a.high, b.high))
    either = union(a, b)
    return Enclosure(
        jnp.where(check.low, a.low, jnp.where(check.high, either.low, b.low)),
        jnp.where(check.low, a.high, jnp.where(check.high, either.high, b.high)),
    )


def _is_finite(a: Enclosure) -> Enclosure:
    sure = jnp.isfinite(a.low) & jnp.isfinite(a.high)
    return Enclosure(sure, jnp.ones_like(sure))


def compare(direction: str, a: Enclosure, b: Enclosure) -> Enclosure:
    """Surely and possibly true; a NaN makes nothing sure."""
    if direction in ("GT", "GE"):
        return compare({"GT": "LT", "GE": "LE"}[direction], b, a)
    if direction == "LT":
        return Enclosure(a.high < b.low, jnp.logical_not(a.low >= b.high))
    if direction == "LE":
        return Enclosure(a.high <= b.low, jnp.logical_not(a.low > b.high))
    surely = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
    possibly = jnp.logical_not((a.high < b.low) | (b.high < a.low))
    if direction == "EQ":
        return Enclosure(surely, possibly)
    return Enclosure(jnp.logical_not(possibly), jnp.logical_not(surely))


def with_itself(direction: str, a: Enclosure) -> Enclosure:
    """A number compared with itself: only a NaN is not equal to itself."""
    if direction in ("LT", "GT"):
        never = jnp.zeros_like(a.low, bool)
        return Enclosure(never, never)
    nan = jnp.isnan(a.low) | jnp.isnan(a.high)
    return Enclosure(jnp.zeros_like(nan), nan) if direction == "NE" else Enclosure(~nan, jnp.ones_like(nan))


RULES: dict[str, Callable[..., Enclosure]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "power": _power,
    "maximum": rising(jnp.maximum),
    "minimum": rising(jnp.minimum),
    "clamp": rising(lambda low, x, high: jnp.minimum(jnp.maximum(low, x), high)),
    "negate": _falling(jnp.negative),
    "abs": _absolute,
    "sign": rising(jnp.sign),
    "floor": rising(jnp.floor),
    "round_nearest_even": rising(partial(lax.round, rounding_method=lax.RoundingMethod.TO_NEAREST_EVEN)),
    "round_nearest_afz": rising(partial(lax.round, rounding_method=lax.RoundingMethod.AWAY_FROM_ZERO)),
    "ceil": rising(jnp.ceil),
    "chlo.square": square,
    "sqrt": _from_zero(rising(jnp.sqrt)),
    "rsqrt": _from_zero(_falling(lax.rsqrt)),
    "cbrt": rising(jnp.cbrt),
    "exponential": rising(jnp.exp),
    "exponential_minus_one": rising(jnp.expm1),
    "log": _from_zero(rising(jnp.log)),
    "log_plus_one": _from_zero(rising(jnp.log1p)),
    "logistic": rising(lax.logistic),
    "tanh": rising(jnp.tanh),
    "chlo.erf": rising(lax.erf),
    "chlo.erfc": _falling(lax.erfc),
    "select": _select,
    "and": rising(jnp.logical_and),
    "or": rising(jnp.logical_or),
    "not": _falling(jnp.logical_not),
    "is_finite": _is_finite,
}
