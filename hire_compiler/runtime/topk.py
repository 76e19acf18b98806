"""Choosing candidates: the rows, or groups of rows, with the highest predicted scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.target import Target

# From predicted logits (of rows ``ids [b, s]``, or None for all) to what the program compares.
Compare = Callable[[jax.Array, jax.Array | None], jax.Array]

_BLOCK = 32  # columns in a block of the two-stage form


def top_candidates(scores: jax.Array, k: int, target: Target | None = None) -> jax.Array:
    """The ``k`` best columns of every row, in ascending order of index.

    Ascending, so that a later argmax or top_k over the candidates breaks ties by the lowest original
    index, as the dense program does.

    Args:
      scores: ``[b, n]`` float32.
      target: whose form of a top-k to use; the plain one by default.

    Returns:
      int32 ``[b, k]``.
    """
    n = scores.shape[-1]
    if k == n:
        return jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32), scores.shape)
    if target is not None and target.two_stage_top_k and n >= 4 * _BLOCK * k:
        return jnp.sort(two_stage_top_k(scores, k), axis=-1)
    if target is None or target.top_k_recall == 1:
        return jnp.sort(lax.top_k(scores, k)[1], axis=-1)
    if target.sorts_approximately:
        return jnp.sort(bucketed_top_k(scores, k, target.top_k_recall), axis=-1)
    return jnp.sort(lax.approx_max_k(scores, k, recall_target=target.top_k_recall)[1], axis=-1)


def bucketed_top_k(scores: jax.Array, k: int, recall: float) -> jax.Array:
    """What ``lax.approx_max_k`` promises, where XLA makes a sort of all columns of it: int32 ``[b, k]``.

    One pass finds the best of each of k / (1 − recall) buckets, and only these are sorted. The best column of all is
    always found.
    """
    count = round(k / (1 - recall))
    if 2 * count >= scores.shape[-1]:
        return lax.top_k(scores, k)[1]
    winners = bucket_winners(scores, count)
    held = jnp.take_along_axis(scores, winners, axis=1)
    return jnp.take_along_axis(winners, lax.top_k(held, k)[1], axis=1)


def two_stage_top_k(scores: jax.Array, k: int) -> jax.Array:
    """The indices that ``lax.top_k`` gives, ties included, in no order: int32 ``[b, k]``.

    The k best columns lie in the k blocks with the best maxima; of equal maxima the first blocks are taken, and in
    them the first columns. One fast pass over all columns; sorting only over blocks, and over the columns of k of them.
    """
    batch, n = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, -n % _BLOCK)), constant_values=-jnp.inf) if n % _BLOCK else scores
    blocks = padded.reshape(batch, -1, _BLOCK)
    chosen = jnp.sort(lax.top_k(jnp.max(blocks, axis=2), k)[1], axis=1)[:, :, None]
    held = jnp.take_along_axis(blocks, chosen, axis=1).reshape(batch, -1)
    columns = (chosen * _BLOCK + jnp.arange(_BLOCK, dtype=jnp.int32)).reshape(batch, -1)
    return jnp.take_along_axis(columns, lax.top_k(held, k)[1], axis=1)


def bucket_winners(scores: jax.Array, count: int) -> jax.Array:
    """About the ``count`` best columns of every row: the best of ``count`` buckets: int32 ``[b, count]``.

    Bucket j holds the columns j, j + count, …; the best column of all is always among the winners, and of the best K
    about K²/2·count share a bucket with a better one. The position of a column in its bucket rides in the lowest bits
    of its score, so that one maximum finds both; scores that differ in those bits alone may change places.
    """
    batch, n = scores.shape
    if count >= n:
        return jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), scores.shape)
    size = -(-n // count)
    low = (1 << (size - 1).bit_length()) - 1
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    ordered = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)  # integers that compare as the floats do
    missing = jnp.iinfo(jnp.int32).min
    padded = jnp.pad(ordered, ((0, 0), (0, size * count - n)), constant_values=missing).reshape(batch, size, count)
    place = jnp.arange(size, dtype=jnp.int32)[:, None]
    best = jnp.max((padded & ~low) | (low - place), axis=1) & low
    return (low - best) * count + jnp.arange(count, dtype=jnp.int32)


def compared_candidates(
    scores: jax.Array,
    k: int,
    compared: Sequence[Compare],
    target: Target | None = None,
    ids: jax.Array | None = None,
) -> jax.Array:
    """The ``k`` best columns of every row by what the program compares, which need not be the score itself.

    Args:
      scores: ``[b, n]`` float32, predicted logits.
      compared: increasing or not, with biases or without: from logits to the values whose largest matter. Several
        share the candidates out among themselves; none means the scores.
      ids: which rows of the weight the columns are, ``[b, n]``; None for all of them.

    Returns:
      int32 ``[b, k]``, columns; ascending if there is one comparison, possibly with repetitions if there are several.
    """
    if len(compared) < 2 or k == scores.shape[-1]:
        return top_candidates(compared[0](scores, ids) if compared else scores, k, target)
    shares = [k // len(compared) + (i < k % len(compared)) for i in range(len(compared))]
    chosen = [top_candidates(f(scores, ids), max(share, 1), target) for f, share in zip(compared, shares, strict=True)]
    return jnp.concatenate(chosen, axis=-1)


def top_groups(scores: jax.Array, group: int, k: int, by: str = "max") -> jax.Array:
    """The ``k`` groups of adjacent neurons that the batch as a whole needs most (dynamic overlap).

    All rows share one selection, one gather and one product.

    Args:
      scores: ``[b, n]`` float32, ``n`` divisible by ``group``.
      by: what a group counts with; see :func:`group_scores`.

    Returns:
      int32 ``[k]``, ascending.
    """
    count = scores.shape[-1] // group
    if k == count:
        return jnp.arange(count, dtype=jnp.int32)
    return jnp.sort(lax.top_k(group_scores(scores, group, by), k)[1])


def group_scores(scores: jax.Array, group: int, by: str = "max") -> jax.Array:
    """What each group of adjacent neurons counts for the batch: ``[n / group]``.

    ``max``: the highest score of any of its neurons for any row. ``l2``: the root of the sum of squares of all its
    positive scores; where rows and neurons agree on a group, it outdoes one that a single neuron wants.
    """
    # Over the batch first: a TPU would otherwise write the scores of a batch out in another layout.
    if by == "max":
        return jnp.max(jnp.max(scores, axis=0).reshape(-1, group), axis=1)
    squares = jnp.sum(jnp.square(jnp.maximum(scores, 0)), axis=0)
    return jnp.sqrt(jnp.sum(squares.reshape(-1, group), axis=1))
