"""Readers of logits that keep only the best, and which of them compare the same values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.graph.expression import Expression
from hire_compiler.graph.graph import Block, Op, Value
from hire_compiler.patterns.region.canonical import Outside, Region


@dataclass(frozen=True)
class Keeping:
    """How a reader keeps the best: what every stage asks of it.

    Attributes:
      best: ``(values [b, n], k)`` to the best values ``[b, k]`` and where they stand, as the program would.
      rows: its results are the values and where they stand; else the values alone.
    """

    best: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]]
    rows: bool


def _argmax(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    at = jnp.argmax(values, axis=-1, keepdims=True).astype(jnp.int32)
    return jnp.take_along_axis(values, at, axis=-1), at


def _top_k(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    best, at = lax.top_k(values, k)
    return best, at


def _max(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    best = jnp.max(values, axis=-1, keepdims=True)
    return best, jnp.zeros(best.shape, jnp.int32)


KEEPING = {
    "argmax": Keeping(_argmax, rows=True),
    "top_k": Keeping(_top_k, rows=True),
    "max": Keeping(_max, rows=False),
}


@dataclass(frozen=True, eq=False)
class Winner:
    """A reader of the logits that keeps only the best: ``argmax``, ``top_k``, or ``max`` beside one of these.

    Attributes:
      kind: which of them: a row of :data:`KEEPING`.
      op: the operation; a rewrite replaces its results.
      region: from the product to what it reads (before any noise), in coordinates ``[batch, vocabulary]``.
      k: how many are kept.
      noise: what is added to that before the best is taken (Gumbel-max sampling), of the same shape; or None.
      all_shards: where this is what one shard compares, and its last rows may be padding: how many rows all of them
        compare, from the first; else None.
    """

    kind: str
    op: Op
    region: Region
    k: int
    noise: Value | None = None
    all_shards: int | None = None

    @property
    def keeping(self) -> Keeping:
        """How it keeps the best."""
        return KEEPING[self.kind]

    @property
    def width(self) -> int:
        """How many rows of the vocabulary it compares, from the first; the rest is padding."""
        return len(self.region.streams[0][1])

    @property
    def compared(self) -> Expression:
        """From the product, the region's parameters and the noise, if there is any, to what is compared."""
        code = self.region.expression
        return code if self.noise is None else code.plus_input(self.op.operands[0].dtype)


def grouped(winners: Sequence[Winner]) -> list[list[Winner]]:
    """The winners, those of the same values together: a greedy token and a sampled one are two groups."""
    groups: list[list[Winner]] = []
    for winner in winners:
        known = next(
            (g for g in groups if same_values(g[0].region, winner.region) and g[0].noise is winner.noise), None
        )
        if known is None:
            groups.append([winner])
        else:
            known.append(winner)
    return groups


def replaced_before(winners: Sequence[Winner]) -> Op | None:
    """In front of which operation all winners can be replaced at once: all that they read stands before it.

    Winners of the same values go in front of the first of them. Others need what the last of them reads; None if
    somebody reads one before that.
    """
    first = min((winner.op for winner in winners), key=lambda op: op.position)
    last = max((winner.op for winner in winners), key=lambda op: op.position)
    if len(grouped(winners)) == 1:
        return first
    readers = [op for winner in winners for result in winner.op.results for op, _ in result.uses]
    return last if all(_place(op, first.block) > last.position for op in readers) else None


def _place(op: Op, block: Block) -> int:
    """Where an operation, or the one that holds it, stands in a block; before everything if it does not."""
    while op.block is not block:
        if op.block.owner is None:
            return -1
        op = op.block.owner
    return op.position


def same_values(one: Region, other: Region) -> bool:
    """Whether two regions compute the same numbers from the logits."""
    captured = len(one.captured) == len(other.captured) and all(map(Outside.same, one.captured, other.captured))
    return (
        captured
        and one.expression == other.expression
        and all(
            a.weight == b.weight and np.array_equal(i, j)
            for (a, i), (b, j) in zip(one.parameters, other.parameters, strict=True)
        )
    )
