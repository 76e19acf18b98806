"""Comparisons of values with the one at some rank among them: by how many are larger, not by bounds.

A value that is compared with itself has bounds that overlap. But which of the others are larger is often known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from hire_compiler.proofs.enclosure import NARROW, Bounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.runtime.checks import any_of, how_many
from hire_compiler.tails.spaces import Rows
from hire_compiler.tails.values import Kth, Plain, Shadow, Wide

# Chains of these come out the same bit for bit wherever the compiler repeats them; a product in front of a sum may be
# contracted with it in one place and not in another; and XLA may round narrow numbers in one place only.
_REPEATABLE = (frozenset({"multiply", "divide"}), frozenset({"add", "subtract"}))
SWAPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "EQ": "EQ", "NE": "NE"}


def with_ranks(made: Wide, direction: str, args: Sequence[Shadow], rounded: Callable[[Bounded], Enclosure]) -> Wide:
    """The result of a comparison, with what ranks say of candidates."""
    left, right = args
    if isinstance(left, Plain):
        left, right, direction = right, left, SWAPPED[direction]
    if not isinstance(left, Wide) or not isinstance(right, Plain) or right.kth is None or left.inside is None:
        return made
    repeats = any(left.made <= chain for chain in _REPEATABLE)
    if not right.kth.source.same(left) or not isinstance(left.space, Rows) or not repeats or left.dtype in NARROW:
        return made
    assert made.inside is not None
    strict = direction in ("GT", "LE")
    kept = _kept(left, right.kth, rounded, strict=strict)
    if direction in ("EQ", "NE"):  # as large as the largest, if at least as large; of other ranks that says nothing
        largest = right.kth.high == 0
        kept = Enclosure(kept.low & largest, kept.high | ~largest)
    if direction in ("LT", "LE", "NE"):
        kept = Enclosure(~kept.high, ~kept.low)
    bounds = made.inside.bounds
    both = Enclosure(bounds.low | kept.low, bounds.high & kept.high)
    return replace(made, inside=replace(made.inside, bounds=both), cut=True)


def _kept(values: Wide, kth: Kth, rounded: Callable[[Bounded], Enclosure], *, strict: bool) -> Enclosure:
    """Whether candidates are at least (or, if strict, more than) the value at a rank."""
    assert values.inside is not None
    inner, members = rounded(values.inside), values.space.members
    low, high, members = jnp.broadcast_arrays(inner.low, inner.high, members)
    if strict:  # more than the value at a rank, if at most so many are no less, itself among them
        maybe = ~(high[:, None, :] < low[:, :, None])
        surely = low[:, None, :] >= high[:, :, None]
    else:
        maybe = ~(high[:, None, :] <= low[:, :, None])
        surely = low[:, None, :] > high[:, :, None]
    others = members[:, None, :] & ~jnp.eye(low.shape[1], dtype=bool)
    at_most = how_many(maybe & others, 2) + strict
    at_least = how_many(surely & others, 2) + strict
    sure = at_most <= kth.low
    nan = any_of(jnp.isnan(low) & members, 1, keepdims=True)  # then the value at a rank may be NaN
    if values.outside is not None:
        outer = rounded(values.outside)
        most = jnp.max(jnp.where(values.space.others, outer.high, -jnp.inf), axis=1, keepdims=True)
        sure &= (most < low) if strict else (most <= low)
        nan |= jnp.isnan(most)
    return Enclosure(sure & ~nan, (at_least <= kth.high) | nan)


def is_compared_with_its_largest(direction: str, args: Sequence[Shadow]) -> bool:
    """Whether a comparison looks for the largest of some values."""
    ranks = [arg.kth for arg in args if isinstance(arg, Plain) and arg.kth is not None]
    wide = [arg for arg in args if isinstance(arg, Wide)]
    return direction in ("EQ", "NE") and bool(wide and ranks) and ranks[0].source.same(wide[0])


def rank_of(value: Wide, low: Any, high: Any) -> Kth | None:
    """Which rank a look-up in sorted values finds, from positions in the author's array."""
    if value.source is None:
        return None
    if getattr(value.space, "rising", False):
        low, high = value.space.width - 1 - high, value.space.width - 1 - low
    return Kth(value.source, low, high)
