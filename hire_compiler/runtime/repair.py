"""Dense where a proof failed: only the failed rows of a batch, in the smallest of a few static sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Results = list[jax.Array]


def repair(
    results: Results,
    proven: jax.Array,
    hopeless: jax.Array,
    some: Callable[[jax.Array], tuple[Results, jax.Array]],
    whole: Callable[[], Results],
    sizes: Sequence[int] = (1, 2, 4, 8),
) -> Results:
    """Replace the results of unproven rows by dense ones.

    The rows to do are brought together; ``stablehlo.case`` picks the smallest branch that holds them. One bad row does
    not cost the others.

    Args:
      results: arrays ``[b, …]``.
      proven: which rows are right, bool ``[b]``.
      hopeless: rows that only the author's own product, over the whole batch, can settle, bool ``[b]``.
      some: from positions ``[s]`` in the batch to dense results ``[s, …]``, and which of them are settled.
      whole: dense results of all rows.
      sizes: of the branches; those up to b are used.
    """
    batch = proven.shape[0]
    steps = [size for size in sizes if size <= batch]
    order = jnp.argsort(proven, stable=True)  # the unproven first

    def branch(size: int) -> Callable[[], tuple[Results, jax.Array]]:
        at = order[:size]

        def run() -> tuple[Results, jax.Array]:
            new, settled = some(at)
            merged = [old.at[at].set(values) for old, values in zip(results, new, strict=True)]
            return merged, (settled | proven[at]).all()

        return run

    failed = jnp.sum(~proven, dtype=jnp.int32)
    index = sum((failed > size).astype(jnp.int32) for size in (0, *steps))
    index = jnp.where(hopeless.any(), len(steps) + 1, index)
    nothing_settled = (results, jnp.zeros((), bool))
    branches = [lambda: (results, jnp.ones((), bool)), *(branch(size) for size in steps), lambda: nothing_settled]
    repaired, settled = lax.switch(index, branches)
    # The whole product stands in one branch only: it is by far the largest program.
    whole_or_repaired: Results = lax.cond(settled, lambda: repaired, whole)
    return whole_or_repaired
