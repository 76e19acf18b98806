"""DaT-Top-k: every shard chooses and computes by itself; here is how the shards' answers meet.

Each function runs inside ``jax.shard_map``, on one device's part. What travels is what a result is made of, never
scores, never gathered rows:

* a feed-forward block: partial sums of d numbers a batch row, in the all-reduce that the dense block needs too;
* a head of which winners are read: the shards' own k winners, as (value, index) pairs;
* a head whose logits are read: nothing, they stay split over the vocabulary as the dense ones are.

``axes`` names the mesh axes over which the rows (neurons, vocabulary) are split.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.runtime.certify import Winners, before_the_next, center_of, reaches
from hire_compiler.runtime.checks import all_of, any_of

Axes = tuple[str, ...]
NUMBERS = "numbers"  # the prepared array that numbers the rows of a shard, where they were dealt out
_SHORT, _UPPER = 1 << 16, np.uint32(0xFFFF0000)
_UP = 1 + 2.0**-6  # more than cutting a float32 off to its upper half takes away
_ULP, _TINY = 2.0**-22, 2.0**-120  # what float32 sums may round off, and what may be flushed


def sum_shards(partial: jax.Array, axes: Axes) -> jax.Array:
    """The sum of the shards' partial sums, on every shard."""
    return lax.psum(partial, axes) if axes else partial


def gather_columns(axes: Axes, *arrays: jax.Array) -> list[jax.Array]:
    """All shards' columns of arrays ``[b or 1, c]``, on every shard.

    One exchange: what is 32 bits wide travels together.
    """
    if any(array.dtype.itemsize != 4 for array in arrays):
        return [lax.all_gather(array, axes, axis=1, tiled=True) for array in arrays]
    bits = jnp.concatenate([lax.bitcast_convert_type(array, jnp.int32) for array in arrays])
    parts = jnp.split(lax.all_gather(bits, axes, axis=1, tiled=True), np.cumsum([len(a) for a in arrays])[:-1])
    return [lax.bitcast_convert_type(part, array.dtype) for part, array in zip(parts, arrays, strict=True)]


@dataclass(frozen=True)
class Numbering:
    """How the rows of a shard are numbered among all.

    Attributes:
      rows: how many a shard holds.
      axes: mesh axes over which the shards lie.
      dealt: ``[rows]`` ascending, the rows of this shard, if they were dealt out; None if it holds a range of them.
    """

    rows: int
    axes: Axes
    dealt: jax.Array | None = None

    def of_all(self, ids: jax.Array) -> jax.Array:
        """From numbers within this shard to numbers among all rows."""
        if self.dealt is not None:
            return self.dealt[ids].astype(ids.dtype)
        return ids + lax.axis_index(self.axes).astype(ids.dtype) * self.rows

    def of_shard(self, ids: jax.Array) -> jax.Array:
        """From numbers among all to the last row of this shard that is not behind it; negative if there is none."""
        if self.dealt is not None:
            return jnp.searchsorted(self.dealt, ids, side="right").astype(ids.dtype) - 1
        return ids - lax.axis_index(self.axes).astype(ids.dtype) * self.rows

    def gather(self, ids: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
        """All shards' ``ids`` (numbered among all) and arrays ``[b, k]``, equal values in ascending order of row."""
        return self._ascending(gather_columns(self.axes, self.of_all(ids), *arrays))

    def gather_enclosed(self, ids: jax.Array, low: jax.Array, high: jax.Array) -> list[jax.Array]:
        """All shards' ``ids``, bounds, and what lies in their middle; 8 bytes of each where a shard's rows allow it.

        A row's number within its shard takes 16 bits, and how far the bounds are apart the other 16: rounded up, so
        they may come out farther apart.
        """
        if self.dealt is not None or self.rows > _SHORT:
            ids, low, high = self.gather(ids, low, high)
            return [ids, low, high, center_of(low, high)]
        middle = center_of(low, high)
        reach = jnp.maximum(high - middle, middle - low) * _UP + jnp.abs(middle) * _ULP + _TINY
        short = lax.bitcast_convert_type(jnp.where(low == high, 0, reach), jnp.uint32) & _UPPER
        middle, packed = gather_columns(self.axes, middle, short | ids.astype(jnp.uint32))
        reach = lax.bitcast_convert_type(packed & _UPPER, jnp.float32)
        shard = jnp.arange(middle.shape[1], dtype=ids.dtype) // ids.shape[1]
        everyone = (packed & ~_UPPER).astype(ids.dtype) + shard * self.rows
        known = reach == 0  # exactly, and perhaps infinite
        return [everyone, *(jnp.where(known, middle, middle + side) for side in (-reach, reach)), middle]

    def _ascending(self, parts: list[jax.Array]) -> list[jax.Array]:
        if self.dealt is None:
            return parts
        order = jnp.argsort(parts[0], axis=1)
        return [jnp.take_along_axis(part, order, axis=1) for part in parts]


def best_of_shards(values: jax.Array, axes: Axes) -> jax.Array:
    """The largest of the shards' own largest values, on every shard; NaN if one of them is."""
    return jnp.max(lax.all_gather(values, axes, axis=0), axis=0) if axes else values


def meet_winners(values: jax.Array, ids: jax.Array, numbering: Numbering) -> tuple[jax.Array, jax.Array]:
    """The best of all shards' winners, on every shard.

    Ties go to the lowest row, as in the dense program, if the shard's own winners are sorted so.

    Args:
      values: ``[b, k]``, the shard's winners, best first.
      ids: ``[b, k]``, their rows, counted within the shard.

    Returns:
      ``(values [b, k], ids [b, k])``, ids counted over all shards.
    """
    if not numbering.axes:
        return values, ids
    all_ids, everyone = numbering.gather(ids, values)
    if values.shape[1] == 1:  # argmax, not top_k: the two differ in where they put NaN
        at = jnp.argmax(everyone, axis=1, keepdims=True)
    else:
        at = lax.top_k(everyone, values.shape[1])[1]
    return jnp.take_along_axis(everyone, at, axis=1), jnp.take_along_axis(all_ids, at, axis=1)


def order_shards(
    best: Winners, ids: jax.Array, numbering: Numbering, *, strict: bool
) -> tuple[Winners, jax.Array, jax.Array]:
    """The winners of all shards, as each of them needs to know it for its own proof.

    One small exchange: k values, how far they may be off, and their rows, from every shard: 8 bytes each. What a shard
    excludes has to stay below the last winner of *all* shards only.

    Args:
      best: of the shard's own candidates.
      ids: the candidates, ``[b, c]``, counted within the shard.

    Returns:
      ``at``, ``low`` and ``high`` as they were; ``threshold``, ``last`` (counted in this shard) and ``sure`` of all,
      as far as this shard can see: its own candidates may leave a doubt of which others know nothing.
      And the winners of all shards, values and rows counted over all: ``[b, k]`` each.
    """
    own = [jnp.take_along_axis(array, best.at, axis=1) for array in (ids, best.low, best.high)]
    if strict:
        everyone, low, high, middle = numbering.gather_enclosed(*own)
    else:  # there is but one value
        everyone, middle = numbering.gather(*own[:2])
        low = high = middle
    values, at = lax.top_k(middle, best.at.shape[1])
    low, high, winners = (jnp.take_along_axis(array, at, axis=1) for array in (low, high, everyone))
    threshold, last = low[:, -1:], numbering.of_shard(winners[:, -1:])
    won = (numbering.of_all(ids)[:, :, None] == winners[:, None, :]).any(axis=2)
    placed, doubtful = jnp.isfinite(low), jnp.isnan(best.low) | jnp.isnan(best.high)
    if strict:
        placed &= before_the_next(low, high, winners)
        doubtful |= reaches(best.high, ids, threshold, last) & ~won
    sure = all_of(placed, 1) & ~any_of(doubtful, 1)
    if not strict:
        sure &= best.sure  # of its values as dense stores them, which may overflow
    return Winners(best.at, threshold, last, sure, best.low, best.high), values, winners


def on_every_shard(holds: jax.Array, axes: Axes) -> jax.Array:
    """Whether something holds on all shards, bool; the same answer on each, so that they may branch on it."""
    return lax.pmin(holds.astype(jnp.int32), axes).astype(bool)


def rows_held(count: jax.Array, axes: Axes, batch_axes: Axes) -> jax.Array:
    """For how many batch rows something held on every shard, at least: from each shard's own count.

    A shard's failures may or may not be those of another, so the shard that fails most is a bound for one mesh axis
    of rows, and the parts of the batch add up.
    """
    worst = lax.pmin(count, axes) if axes else count
    return lax.psum(worst, batch_axes) if batch_axes else worst


def meet_measured(measure: str, values: jax.Array, axes: Axes, batch_axes: Axes) -> jax.Array:
    """What the shards measured about themselves (``Replacement.measure``), made one.

    Args:
      measure: ``"proof"``: batch rows proven [, largest slack]; ``"tail"``: mean squares [, largest error].
      values: a number, or two ``[2]``.
    """
    if values.ndim == 0:
        return rows_held(values, axes, batch_axes)
    both = (*axes, *batch_axes)
    if measure == "proof":
        first = rows_held(values[0], axes, batch_axes)
    else:
        first = lax.pmean(values[0], axes) if axes else values[0]
        first = lax.psum(first, batch_axes) if batch_axes else first
    return jnp.stack([first, lax.pmax(values[1], both) if both else values[1]])
