"""Bounds of whole numbers: counts, positions, bit patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from hire_compiler.proofs.interval import Enclosure, point

KNOWN: dict[str, Callable[..., Any]] = {
    "shift_left": lax.shift_left,
    "shift_right_logical": lax.shift_right_logical,
    "shift_right_arithmetic": lax.shift_right_arithmetic,
    "xor": lax.bitwise_xor,
    "popcnt": lax.population_count,
}
_BITWISE = {"and": jnp.bitwise_and, "or": jnp.bitwise_or, "xor": jnp.bitwise_xor}


def whole_rule(op: str, args: list[Enclosure], dtype: str) -> Enclosure | None:
    """What an operation makes of whole numbers between bounds; None if nothing is known of it."""
    if not dtype.startswith(("int", "uint")):
        return None
    info = jnp.iinfo(dtype)
    if op in ("add", "subtract") and dtype.startswith("int"):
        a, b = args
        if op == "subtract":
            ends = (a.low - b.high, a.high - b.low)
            wraps = ((b.high > 0) & (a.low < info.min + b.high)) | ((b.low < 0) & (a.high > info.max + b.low))
        else:
            ends = (a.low + b.low, a.high + b.high)
            wraps = ((b.low < 0) & (a.low < info.min - b.low)) | ((b.high > 0) & (a.high > info.max - b.high))
        return _anything_where(wraps, Enclosure(*ends), info)
    if op in ("maximum", "minimum"):
        function = jnp.maximum if op == "maximum" else jnp.minimum
        return Enclosure(function(args[0].low, args[1].low), function(args[0].high, args[1].high))
    if op == "clamp":
        low, x, high = args
        return Enclosure(
            jnp.minimum(jnp.maximum(x.low, low.low), high.low), jnp.minimum(jnp.maximum(x.high, low.high), high.high)
        )
    if op == "negate" and dtype.startswith("int"):
        wraps = args[0].low == info.min
        return _anything_where(wraps, Enclosure(-args[0].high, -args[0].low), info)
    if op in _BITWISE and dtype.startswith("int"):
        return _bitwise(op, args[0], args[1], info)
    return None


def _anything_where(check: Any, bounds: Enclosure, info: Any) -> Enclosure:
    return Enclosure(jnp.where(check, info.min, bounds.low), jnp.where(check, info.max, bounds.high))


def _bitwise(op: str, a: Enclosure, b: Enclosure, info: Any) -> Enclosure:
    """Of bit patterns between bounds the leading bits that both bounds share are known, of the others nothing is."""
    open_a, open_b = _open_bits(a), _open_bits(b)
    function = _BITWISE[op]
    unknown = open_a | open_b
    low = function(a.low, b.low) & ~unknown
    high = low | unknown
    if op == "or":
        low = low | ((a.low & ~open_a) | (b.low & ~open_b)) & unknown
        # A pattern with more bits set is no smaller, as long as the sign is the same.
        low = jnp.where((a.low >= 0) & (b.low >= 0), jnp.maximum(low, jnp.maximum(a.low, b.low)), low)
    if op == "and":
        high = low | (unknown & (a.low | open_a) & (b.low | open_b))
    return _anything_where(unknown < 0, Enclosure(low, high), info)


def _open_bits(a: Enclosure) -> Any:
    """Every bit from the first in which the bounds differ."""
    bits = a.low ^ a.high
    for shift in (1, 2, 4, 8, 16):
        bits = bits | lax.shift_right_logical(bits, jnp.full_like(bits, shift))
    return bits


def as_float(bits: Enclosure) -> Enclosure:
    """The float32 numbers that bit patterns (int32) between bounds stand for; NaN where one may be NaN."""
    low, high = (lax.bitcast_convert_type(end, jnp.float32) for end in (bits.low, bits.high))
    if bits.low is bits.high:
        return point(low)
    positive, negative = bits.low >= 0, bits.high < 0
    nan = jnp.isnan(low) | jnp.isnan(high)
    first = jnp.where(positive, low, jnp.where(negative, high, -jnp.inf))
    last = jnp.where(positive, high, jnp.where(negative, low, jnp.inf))
    nan |= ~(positive | negative)
    return Enclosure(jnp.where(nan, jnp.nan, first), jnp.where(nan, jnp.nan, last))
