"""Dense where a proof failed: the failed rows one by one, or the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Results = list[jax.Array]
_State = tuple[Results, jax.Array]  # results, and whether a row was met that cannot be settled by itself


def repair(
    results: Results,
    proven: jax.Array,
    hopeless: jax.Array,
    one: Callable[[jax.Array], tuple[Results, jax.Array]],
    whole: Callable[[], Results],
    most: int,
) -> Results:
    """Replace the results of unproven rows by dense ones.

    One bad row does not cost the others. The code of a row stands in the program once, in a loop: compiled for several
    numbers of rows it would be most of the program.

    Args:
      results: arrays ``[b, …]``.
      proven: which rows are right, bool ``[b]``.
      hopeless: rows that only the author's own product, over the whole batch, can settle, bool ``[b]``.
      one: from a position in the batch, int32 ``[]``, to dense results ``[1, …]``, and whether they are settled.
      whole: dense results of all rows.
      most: how many rows are done one by one; where more fail, all are done together.
    """
    if not most:
        return _either(proven.all(), results, whole)
    order = jnp.argsort(proven, stable=True).astype(jnp.int32)  # the unproven first
    failed = jnp.sum(~proven, dtype=jnp.int32)

    def next_row(number: jax.Array, state: _State) -> _State:
        def run() -> _State:
            at = order[number]
            new, settled = one(at)
            merged = [lax.dynamic_update_slice_in_dim(a, b, at, 0) for a, b in zip(state[0], new, strict=True)]
            return merged, ~settled

        # A branch, and not another end of the loop: XLA takes a widened copy of the weight out of a loop, but not out
        # of a branch in it.
        return lax.cond(state[1], lambda: state, run)

    lost = hopeless.any() | (failed > most)
    repaired, lost = lax.fori_loop(0, jnp.where(lost, 0, failed), next_row, (results, lost))
    return _either(~lost, repaired, whole)


def _either(settled: jax.Array, results: Results, whole: Callable[[], Results]) -> Results:
    chosen: Results = lax.cond(settled, lambda: results, whole)
    return chosen
