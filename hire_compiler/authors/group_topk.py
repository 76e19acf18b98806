"""``group_topk``: the choice of neurons that a model is trained with, under a name that the compiler recognises."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from hire_compiler.errors import ConfigError

NAME = "hire.group_topk"


def group_topk(h: jax.Array, k: int, group: int = 8, *, straight_through: bool = False) -> jax.Array:
    """Keep the strongest groups of neurons of each row, set the others to zero.

    A group is ``group`` adjacent entries of the last axis and counts with its largest absolute value. The
    ``k / group`` strongest are kept; groups that tie with the last of them are kept, too. Put it behind the
    activation of a feed-forward block (of a gated one, behind the product of both halves, or behind the activation
    of the gate alone), train, and let :func:`hire_compiler.transform` skip what it drops: it lowers to a composite
    of its own name, which survives ``grad``, ``vmap``, ``scan``, ``remat`` and ``shard_map``.

    Args:
      h: ``[…, m]``.
      k: neurons kept in each row, a multiple of ``group``.
      group: adjacent neurons kept or dropped together; divides m.
      straight_through: let the gradient of dropped neurons pass as if they had been kept. Otherwise it is zero.

    Returns:
      ``[…, m]`` in the type of h.

    Raises:
      ConfigError: ``group`` does not divide m or k, or k is no number of neurons between ``group`` and m.
    """
    if not jnp.issubdtype(h.dtype, jnp.floating) or h.ndim == 0:
        raise ConfigError(f"group_topk: h is {h.dtype}{list(h.shape)}, must hold floats, neurons along the last axis")
    m = h.shape[-1]
    for name, value in (("k", k), ("group", group)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"group_topk: {name} is {value!r}, must be a whole number of at least 1")
    if m % group or k % group:
        raise ConfigError(f"group_topk: group {group} must divide the width {m} and k = {k}")
    if k > m:
        raise ConfigError(f"group_topk: k = {k} is more than the {m} neurons there are")
    return _differentiable(k, group, straight_through)(h)  # type: ignore[no-any-return]


def kept_groups(h: jax.Array, k: int, group: int) -> jax.Array:
    """Which neurons :func:`group_topk` keeps: bool ``[…, m]``."""
    strength = jnp.max(jnp.abs(h).reshape(*h.shape[:-1], -1, group), axis=-1).astype(jnp.float32)
    last = lax.top_k(strength, k // group)[0][..., -1:]
    return jnp.repeat(strength >= last, group, axis=-1)


def masked(h: jax.Array, k: int, group: int) -> jax.Array:
    """:func:`group_topk` as plain operations."""
    return jnp.where(kept_groups(h, k, group), h, jnp.zeros_like(h))


@lru_cache(maxsize=256)
def _differentiable(k: int, group: int, straight_through: bool) -> Any:
    # A bare composite has neither a batching rule nor a derivative: custom_vmap and custom_vjp give it both.
    composite = lax.composite(_decomposition, name=NAME)

    @custom_vmap
    def batched(h: jax.Array) -> jax.Array:
        return composite(h, k=k, group=group)  # type: ignore[no-any-return]

    @batched.def_vmap
    def _rule(_size: int, _batched: Any, h: jax.Array) -> tuple[jax.Array, bool]:
        return batched(h), True  # the new axis comes first, the neurons stay last

    @jax.custom_vjp
    def apply(h: jax.Array) -> jax.Array:
        return batched(h)

    def forward(h: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return batched(h), None if straight_through else kept_groups(h, k, group)

    def backward(kept: jax.Array | None, cotangent: jax.Array) -> tuple[jax.Array]:
        return (cotangent if kept is None else jnp.where(kept, cotangent, jnp.zeros_like(cotangent)),)

    apply.defvjp(forward, backward)
    return apply


def _decomposition(h: jax.Array, *, k: Any, group: Any) -> jax.Array:
    return masked(h, int(k), int(group))
