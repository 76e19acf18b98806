"""Certificates: prove from bounds that no row outside the candidates can be among the winners.

For the quantised copy w̃_i of a row w_i, with e_i = w_i − w̃_i, and any x (Cauchy–Schwarz, whole or by blocks of
columns):

    |w_i·x − w̃_i·x| ≤ min(‖e_i‖₂ ‖x‖₂,  Σ_blocks ‖e_ib‖₂ ‖x_b‖₂)

With the rounding of the float32 sums on both sides added, and what flushing small numbers to zero may lose,
``z̃_i ± ε_i`` encloses every logit that the dense program could compute. The author's code between the logits and what
is compared carries these bounds on (``proofs/enclosure.py``). The winners are proven when no excluded row reaches the
last of them; that is *counted*, not read off the selection, so it holds for approximate forms of top-k too. The counts
of shards add up.

Every comparison is written so that NaN fails the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.checks import all_of, how_many
from hire_compiler.runtime.record import Arrays
from hire_compiler.runtime.target import Target, dot_of_few

BLOCK = 32  # columns in a block of the finer bound
_FLUSHED = 2.0**-125  # a flushed operand, product or sum loses less than the smallest normal number, 2⁻¹²⁶
_SMALL = 2.0**-120  # keeps a bound from being flushed itself
_LARGEST = 2.0**60  # norms above it might let a sum overflow: nothing is proven of such rows and inputs


def gamma(d: int) -> float:
    """Worst relative error of a float32 sum of d products: d·u / (1 − d·u), u = 2⁻²⁴."""
    unit = float(jnp.finfo(jnp.float32).eps) / 2
    return d * unit / (1 - d * unit)


def prepare_bound(rows: jax.Array, quantized: Arrays) -> Arrays:
    """How far logits can be from their predictions, for ‖x‖₂ = 1.

    Args:
      rows: ``[n, d]``.
      quantized: what ``prepare_quantized`` made of them.

    Returns:
      ``bound`` (of a whole row) and ``norm`` (‖w_i‖₂), float32 ``[n]``, and ``blocks``, bfloat16
      ``[n, ceil(d / 32)]``: ‖e_ib‖₂; all rounded up.
    """
    wide, (n, d) = rows.astype(jnp.float32), rows.shape
    difference = wide - quantized["q"].astype(jnp.float32) * quantized["scale"][:, None]
    error, norm = _norm(difference, axis=1), _norm(wide, axis=1)
    blocks = jnp.pad(difference, ((0, 0), (0, -d % BLOCK))).reshape(n, -1, BLOCK)
    blocks = _norm(blocks, axis=2) * (1 + 2**-7) + jnp.finfo(jnp.bfloat16).tiny
    bound = error * (1 + gamma(d)) + _rounding(norm, error, d)
    usual = norm < _LARGEST  # false for NaN too
    return {"bound": jnp.where(usual, bound + _SMALL, jnp.inf), "norm": norm, "blocks": blocks.astype(jnp.bfloat16)}


def _rounding(norm: jax.Array, error: jax.Array, d: int) -> jax.Array:
    # The prediction and the dense product both round: γ each, on rows of about the same norm.
    return (2 * gamma(d) + 8 * float(jnp.finfo(jnp.float32).eps)) * (norm + error)


def room(bounds: Arrays, x: jax.Array, terms: float = 0.0) -> jax.Array:
    """ε_i of every row by its norm: ``[b, n]`` float32, from x ``[b, d]``; infinite where nothing is known.

    Args:
      bounds: what ``prepare_bound`` made.
      terms: relative rounding of each a·b in the dense product (:func:`rounded_terms`).
    """
    return _times_length(bounds["bound"] + terms * bounds["norm"] if terms else bounds["bound"], x)


def upper_bounds(scores: jax.Array, bound: jax.Array, x: jax.Array) -> jax.Array:
    """``u_i`` of every row by its norm: ``[b, n]`` float32, from scores ``[b, n]`` and x ``[b, d]``."""
    return scores + _times_length(bound, x)


def finer_room(bounds: Arrays, x: jax.Array, target: Target, terms: float = 0.0) -> jax.Array:
    """ε_i of every row by the better of both bounds; reads ``blocks`` too."""
    batch, d = x.shape
    parts = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, -d % BLOCK))).reshape(batch, -1, BLOCK)
    lengths = _norm(parts, axis=2) * (1 + gamma(d))
    by_blocks = dot_of_few(lengths, bounds["blocks"], target)
    by_blocks += _times_length(_rounding(bounds["norm"], bounds["bound"], d) + terms * bounds["norm"], x)
    by_norms = room(bounds, x, terms)
    return jnp.where(by_blocks < by_norms, by_blocks, by_norms)


def between(norm: jax.Array, x: jax.Array, terms: float = 0.0) -> jax.Array:
    """How far the same logit can be apart here and in dense: ``[b, k]`` from norms ``[b, k]``.

    Each side is a float32 sum, off by γ_d ‖w‖ ‖x‖; dense may round its terms too.
    """
    return _times_length((2 * gamma(x.shape[1]) + terms) * norm + 2 * _SMALL, x)


def rounded_terms(rows: int, result: str, target: Target) -> float:
    """By how much, relatively, dense may round each a·b before it sums them: 0 where it never does.

    Measured on an H100 (``benchmarks.gpu_checks``): a product of one row with a narrow result is multiplied in that
    type, term by term, and summed in float32. Of a TPU nothing is known.

    Args:
      rows: of the input, that are read.
      result: type of the product.
    """
    if rows > 1 or result not in ("bfloat16", "float16") or not target.rounds_terms:
        return 0.0
    return float(jnp.finfo(result).eps) / 2 * (1 + 2.0**-10)


def center_of(low: jax.Array, high: jax.Array) -> jax.Array:
    """What lies in the middle of bounds; the lower one where that is no number."""
    middle = (low + high) / 2
    return jnp.where(jnp.isfinite(middle), middle, low)


def _times_length(bound: jax.Array, x: jax.Array) -> jax.Array:
    """A bound for ‖x‖ = 1 (``[n]`` or ``[b, n]``), for this x, with what may be flushed to zero on the way.

    Flushing loses an entry of w (times one of x, together 2⁻¹²⁶ √d ‖x‖), an entry of x (2⁻¹²⁶ √d ‖w‖, and ‖w‖ is less
    than 2²⁴ bounds), a product, or a partial sum.
    """
    d = x.shape[1]
    length = _norm(x.astype(jnp.float32), axis=1)[:, None]
    reach = bound * (length * (1 + 2.0**-20) + d**0.5 * 2.0**-100) + _FLUSHED * (d + d**0.5 * length)
    return jnp.where(length < _LARGEST, reach, jnp.inf)  # so for NaN too


@dataclass(frozen=True)
class Winners:
    """The best ``k`` of the candidates, and what it takes to be one of them.

    Attributes:
      at: their positions among the candidates, best first: ``[b, k]``.
      threshold: what the last of them reaches at least, ``[b, 1]``.
      last: which row the last of them is, ``[b, 1]``: of equal values the lower row wins.
      sure: whether the candidates themselves leave no doubt: all values are finite and, in strict mode, dense's
        rounding cannot order them otherwise: ``[b]``.
      low, high: between what every candidate's value lies in dense, ``[b, c]``; the same where not strict.
    """

    at: jax.Array
    threshold: jax.Array
    last: jax.Array
    sure: jax.Array
    low: jax.Array
    high: jax.Array


def best_candidates(
    center: jax.Array,
    low: jax.Array,
    high: jax.Array,
    ids: jax.Array,
    k: int,
    *,
    strict: bool,
    known: jax.Array | bool = True,
) -> Winners:
    """The winners among the candidates, by what the program compares.

    Args:
      center: the candidates' values as computed here, ``[b, c]``.
      low, high: between what dense's values lie, ``[b, c]``.
      ids: the candidates, ``[b, c]``, ascending.
      strict: be sure of the indices and their order in dense. Otherwise values that are closer than the roundings of
        both sides may change places.
      known: which candidates' bounds mean anything, ``[b, c]``; one that does not leaves a doubt.
    """
    at = lax.top_k(center, k)[1]
    winners = jnp.take_along_axis(ids, at, axis=1)
    known &= ~(jnp.isnan(center) | jnp.isnan(low) | jnp.isnan(high))
    lows, highs = (low, high) if strict else (center, center)
    best = jnp.take_along_axis(lows, at, axis=1)
    threshold, last = best[:, -1:], winners[:, -1:]
    ends = [jnp.take_along_axis(end, at, axis=1) for end in (low, high)]
    placed = jnp.isfinite(ends[0]) & jnp.isfinite(ends[1])
    if strict:
        placed &= before_the_next(best, jnp.take_along_axis(highs, at, axis=1), winners)
    sure = all_of(known, 1) & all_of(placed, 1)
    if strict:
        sure &= others(reaches(highs, ids, threshold, last), at) == 0
    return Winners(at, threshold, last, sure, lows, highs)


def before_the_next(low: jax.Array, high: jax.Array, ids: jax.Array) -> jax.Array:
    """Which of the values between ``low`` and ``high`` (``[b, k]``) can only stand before the next one: ``[b, k]``."""
    tie = (low[:, :-1] == high[:, 1:]) & (ids[:, :-1] < ids[:, 1:]) & (low[:, :-1] != 0)
    return jnp.pad((low[:, :-1] > high[:, 1:]) | tie, ((0, 0), (0, 1)), constant_values=True)


def others(reach: jax.Array, at: jax.Array) -> jax.Array:
    """Of how many entries that are not at places ``at [b, k]``, none twice, a check ``[b, n]`` holds: int32 ``[b]``."""
    return how_many(reach, 1) - how_many(jnp.take_along_axis(reach, at, axis=1), 1)


def reaches(values: jax.Array, ids: jax.Array, threshold: jax.Array, last: jax.Array) -> jax.Array:
    """Whether values ``[b, n]`` of rows ``ids`` (``[b, n]`` or ``[n]``) could push the last winner out.

    A NaN could. So could a zero that ties: a top-k may order zeros by their sign.
    """
    below = (values < threshold) | ((values == threshold) & (ids > last) & (threshold != 0))
    return jnp.logical_not(below)


def excluded_that_reach(values: jax.Array, ids: jax.Array, winners: Winners) -> jax.Array:
    """How many rows outside the candidates ``ids`` could be among the winners: int32 ``[b]``.

    Args:
      values: upper bounds of what the program compares, of all rows, ``[b, n]``.
    """
    reach = reaches(values, jnp.arange(values.shape[1], dtype=jnp.int32), winners.threshold, winners.last)
    return others(reach, ids)


def take_entries(vector: jax.Array, ids: jax.Array | None) -> jax.Array:
    """Entries ``ids [b, c]`` (None: all) of a vector ``[n]``, or of ``[b, n]``, where 1 stands for any length."""
    if ids is None or vector.shape[-1] == 1:
        return vector
    if vector.ndim == 1 or vector.shape[0] == 1:
        return vector.reshape(-1)[ids]
    return jnp.take_along_axis(vector, ids, axis=1)


def take_batch(vector: jax.Array, at: jax.Array) -> jax.Array:
    """One batch row of a vector ``[n]`` or ``[b, n]``, where a length of 1 stands for any."""
    if vector.ndim == 1 or vector.shape[0] == 1:
        return vector
    return lax.dynamic_slice_in_dim(vector, at, 1)


def _norm(array: jax.Array, axis: int) -> jax.Array:
    """Euclidean norms in float32, rounded up.

    Squares of small numbers would underflow, those of large ones overflow, hence the scaling. By a power of two, and
    multiplied: XLA divides by multiplying with the reciprocal, which is flushed to zero for numbers beyond 2¹²⁶.
    """
    largest = jnp.max(jnp.abs(array), axis=axis, keepdims=True)
    power = jnp.where(largest > 2.0**40, 2.0**-70, jnp.where(largest < 2.0**-20, 2.0**50, 1.0))
    power = jnp.where(largest < 2.0**-80, 2.0**100, power)
    scaled = array * power
    length = jnp.sqrt(jnp.sum(scaled * scaled, axis=axis)) * (1 + gamma(array.shape[axis] + 8))
    return length * jnp.squeeze(1 / power, axis)
