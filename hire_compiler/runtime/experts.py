"""Experts one after the other: those that a router chose for some row of the batch, each read where it lies.

A loop with as many trips as there are experts to compute. A gather of whole experts would write what it reads, and a
product batched over all of them reads all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.gathered import Matrix, chosen_columns_dot, chosen_rows_dot
from hire_compiler.runtime.narrow_rows import NarrowRows
from hire_compiler.runtime.target import Target, unfused

OneExpert = Callable[[jax.Array, Callable[[int, jax.Array], jax.Array]], jax.Array]
_GROUPS = (8, 4, 2, 1)  # rows that are read together; the largest that divides an expert's


@dataclass(frozen=True)
class ExpertRows:
    """The weight of a product, one expert after the other.

    Attributes:
      matrix: ``[experts · rows, width]``, or stacked; perhaps stored narrow.
      rows: of one expert.
      by_rows: the product sums along the rows, not down the columns.
      precise: the author asked for full precision.
      layer: which layer of a stack.
    """

    matrix: Matrix
    rows: int
    by_rows: bool
    precise: bool
    layer: jax.Array | None = None

    def product(self, x: jax.Array, expert: jax.Array, target: Target) -> jax.Array:
        """``x [b, k]`` times the part of one expert, summed in float32: ``[b, n]``."""
        group = self.rows if target.gathered_rows is None else next(g for g in _GROUPS if self.rows % g == 0)
        blocks = self.rows // group
        matrix, first = self._of_all_layers(expert)
        index = first.astype(jnp.int32) * blocks + jnp.arange(blocks, dtype=jnp.int32)
        chosen = chosen_rows_dot if self.by_rows else chosen_columns_dot
        # Else XLA:CPU computes an activation anew for every row that it goes into.
        return chosen(unfused(x, target), matrix, index, group, target, precise=self.precise)

    def _of_all_layers(self, expert: jax.Array) -> tuple[Matrix, jax.Array]:
        """The rows of all experts, and which of these the expert is."""
        if isinstance(self.matrix, NarrowRows):
            return self.matrix.of_layer(self.layer), expert
        first = expert if self.layer is None else expert + self.layer * (self.matrix.shape[-2] // self.rows)
        return self.matrix.reshape(-1, self.matrix.shape[-1]), first


def chosen_experts(
    needed: jax.Array, kernels: Sequence[ExpertRows], one: OneExpert, shape: tuple[int, ...], target: Target
) -> tuple[jax.Array, jax.Array]:
    """The sum of what the needed experts add, in their order.

    Args:
      needed: bool ``[experts]``.
      one: from an expert's number, and a way to multiply by its part of a weight, to what it adds.
      shape: of the result.

    Returns:
      The sum in float32, and how many experts were computed.
    """
    order = jnp.argsort(~needed, stable=True).astype(jnp.int32)
    count = jnp.sum(needed, dtype=jnp.int32)

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
        expert = order[i]
        return total + one(expert, lambda number, x: kernels[number].product(x, expert, target)).astype(total.dtype)

    return lax.fori_loop(0, count, step, jnp.zeros(shape, jnp.float32)), count


def expert_sizes(rows: jax.Array, experts: int, *, by_rows: bool) -> jax.Array:
    """What ``|x · w|`` does not exceed for entries of x of at most 1, of any output of each expert: ``[…, experts]``.

    Infinite where an entry is not finite.

    Args:
      rows: ``[…, experts · m, width]``.
      by_rows: the product sums along the rows.
    """
    absolute = jnp.abs(rows.astype(jnp.float32)).reshape(*rows.shape[:-2], experts, -1, rows.shape[-1])
    most = jnp.max(jnp.sum(absolute, axis=-1 if by_rows else -2), axis=-1)
    return jnp.where(jnp.isfinite(most), most, jnp.inf)
