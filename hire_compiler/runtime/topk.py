"""Choosing candidates: the rows, or groups of rows, with the highest predicted scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax


def top_candidates(scores: jax.Array, k: int) -> jax.Array:
    """The ``k`` best columns of every row, in ascending order of index.

    Ascending, so that a later argmax or top_k over the candidates breaks ties by the lowest original
    index, as the dense program does.

    Args:
      scores: ``[b, n]`` float32.

    Returns:
      int32 ``[b, k]``.
    """
    if k == scores.shape[-1]:
        return jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32), scores.shape)
    return jnp.sort(lax.top_k(scores, k)[1], axis=-1)


def compared_candidates(scores: jax.Array, k: int, compared: Sequence[Callable[[jax.Array], jax.Array]]) -> jax.Array:
    """The ``k`` best columns of every row by what the program compares, which need not be the score itself.

    Args:
      scores: ``[b, n]`` float32, predicted logits.
      compared: increasing or not, with biases or without: from logits to the values whose largest matter. Several
        share the candidates out among themselves; none means the scores.

    Returns:
      int32 ``[b, k]``; ascending if there is one comparison, possibly with repetitions if there are several.
    """
    if len(compared) < 2 or k == scores.shape[-1]:
        return top_candidates(compared[0](scores) if compared else scores, k)
    shares = [k // len(compared) + (i < k % len(compared)) for i in range(len(compared))]
    chosen = [top_candidates(f(scores), max(share, 1)) for f, share in zip(compared, shares, strict=True)]
    return jnp.concatenate(chosen, axis=-1)


def top_groups(scores: jax.Array, group: int, k: int) -> jax.Array:
    """The ``k`` groups of adjacent neurons that the batch as a whole needs most (dynamic overlap).

    A group counts with the highest score of any of its neurons for any batch row, so that all rows share one
    selection, one gather and one product.

    Args:
      scores: ``[b, n]`` float32, ``n`` divisible by ``group``.

    Returns:
      int32 ``[k]``, ascending.
    """
    count = scores.shape[-1] // group
    if k == count:
        return jnp.arange(count, dtype=jnp.int32)
    best = jnp.max(scores.reshape(-1, count, group), axis=(0, 2))
    return jnp.sort(lax.top_k(best, k)[1])
