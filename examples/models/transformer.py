"""What the example models share: normalisation, rotary positions, attention over a cache.

Shapes use B batch, T tokens of this call, S positions of the cache, d model width, H query heads,
K key-value heads, D width of a head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

# {"k": [L arrays], "v": [L arrays], "position": int32 scalar}. Positions come before heads because with them after,
# XLA on CPU copies each donated key array three times a step (SmolLM2: 32 ms a token against 21). With a single head
# (Gemma 3 270M) the two layouts are the same, and those copies remain: about 5 ms of 32.
Cache = dict[str, Any]
Params = dict[str, Any]


def init_cache(layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype: DTypeLike) -> Cache:
    """An empty cache: `k` and `v` are lists of `[B, S, K, D]`, `position` counts the tokens seen.

    The length is static. Nothing on the device can refuse a token past it (the update would
    overwrite the last positions), so drivers count.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"A cache needs a batch and a length of at least 1, not {batch} and {length}.")
    shape = (batch, length, kv_heads, head_dim)
    return {
        "k": [jnp.zeros(shape, dtype) for _ in range(layers)],
        "v": [jnp.zeros(shape, dtype) for _ in range(layers)],
        "position": jnp.zeros((), jnp.int32),
    }


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """Root-mean-square norm over the last axis, computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
    return (wide * scale * weight.astype(jnp.float32)).astype(x.dtype)


def rotate(x: Array, positions: Array, base: float) -> Array:
    """Rotary position embedding in the half-split layout: dimension i turns with dimension i + D/2.

    Args:
        x: `[B, T, heads, D]`.
        positions: int32 `[T]`.
        base: the longest wavelength is about 2π·base positions.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def causal_mask(positions: Array, length: int, window: int | None = None) -> Array:
    """Which cache positions each token may read: itself and earlier ones, at most `window` of them.

    Args:
        positions: int32 `[T]`, where the tokens of this call stand.
        length: S, the static length of the cache.
        window: the width of sliding-window attention, None for all earlier positions.

    Returns:
        bool `[T, S]`.
    """
    keys = jnp.arange(length)
    visible = keys <= positions[:, None]
    if window is None:
        return visible
    return visible & (keys > positions[:, None] - window)


def attend(q: Array, keys: Array, values: Array, mask: Array, scale: float) -> Array:
    """Grouped-query attention: each key-value head serves H / K query heads.

    Args:
        q: `[B, T, H, D]`.
        keys: `[B, S, K, D]`.
        values: `[B, S, K, D]`.
        mask: bool `[T, S]`.
        scale: multiplies the scores.

    Returns:
        `[B, T, H * D]`.
    """
    batch, tokens, heads, width = q.shape
    grouped = q.reshape(batch, tokens, keys.shape[2], -1, width)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores * scale, -jnp.inf)  # Each token sees itself: no empty row.
    probabilities = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("bkgts,bskd->btkgd", probabilities, values)
    return mixed.reshape(batch, tokens, heads * width)


def append(cached: Array, new: Array, position: Array) -> Array:
    """Write `new` `[B, T, K, D]` into `cached` `[B, S, K, D]` from `position` on."""
    return jax.lax.dynamic_update_slice(cached, new.astype(cached.dtype), (0, position, 0, 0))
