"""Sorted values moved along by some places, as ``concatenate`` does: ``[first, *values[:-1]]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.spaces import Ranks
from hire_compiler.tails.values import Plain, Shadow, Wide, canonical


def joined(operands: Sequence[Shadow], dim: int, shape: tuple[int, ...], elementwise: Elementwise) -> Wide:
    """Numbers of each batch row, put in front of sorted values.

    Raises:
      Unbounded: anything else.
    """
    *before, last = operands
    if not isinstance(last, Wide) or not isinstance(last.space, Ranks) or last.axis != dim or last.space.rising:
        raise Unbounded("concatenate of logits")
    if not all(isinstance(part, Plain) for part in before):
        raise Unbounded("concatenate of logits")
    like = replace(last, shape=shape)
    parts = [part for part in before if isinstance(part, Plain)]
    count = sum(part.shape[dim] for part in parts)
    assert last.inside is not None
    inner = elementwise.rounded(last.inside)
    whole = last.outside is None
    kept = last.space.inner + count if whole else last.space.inner

    def front(end: str) -> list[Any]:
        columns = []
        for part in parts:
            array = canonical(getattr(elementwise.rounded(part.bounded), end), like)
            columns.append(jnp.broadcast_to(array, (last.space.batch, part.shape[dim])))  # type: ignore[union-attr]
        return columns

    def side(end: str) -> Any:
        own = jnp.broadcast_to(getattr(inner, end), (last.space.batch, last.space.inner))  # type: ignore[union-attr]
        return jnp.concatenate([*front(end), own], axis=1)

    ends = side("low"), side("high")
    inside = Bounded(Enclosure(*(end[:, :kept] for end in ends)), last.dtype)
    space = replace(last.space, inner=kept, width=last.space.width + count)
    if whole:
        return Wide(shape, dim, space, inside, None)
    assert last.outside is not None
    outer = elementwise.rounded(last.outside)
    moved = [end[:, kept:] for end in ends]  # what no longer is among the first
    least = jnp.minimum(_extreme(outer.low, jnp.min), _extreme(moved[0], jnp.min))
    most = jnp.maximum(_extreme(outer.high, jnp.max), _extreme(moved[1], jnp.max))
    return Wide(shape, dim, space, inside, Bounded(Enclosure(least, most), last.dtype))


def _extreme(array: Any, extreme: Any) -> Any:
    if array.dtype == bool:
        return (jnp.all if extreme is jnp.min else jnp.any)(array, axis=1, keepdims=True)
    return extreme(array, axis=1, keepdims=True)
