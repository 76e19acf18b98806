"""Choosing candidates: the rows, or groups of rows, with the highest predicted scores."""

from __future__ import annotations

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
