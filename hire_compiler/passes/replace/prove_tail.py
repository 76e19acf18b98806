"""A head with a tail at run time: run the author's code on bounds, or run it as it was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.passes.replace.tail_rows import TailRows
from hire_compiler.proofs.enclosure import arithmetic_for
from hire_compiler.proofs.interval import around
from hire_compiler.runtime.checks import all_of, how_many
from hire_compiler.tails.program import Tail
from hire_compiler.tails.spaces import Rows

# The results, which batch rows are proven, and how far numbers of each may be off that are only known between bounds.
Attempt = tuple[list[jax.Array], jax.Array, jax.Array]
State = tuple[jax.Array, jax.Array, jax.Array, Attempt]  # tries done, logits, how far off they may be, what came out


def prove_tail(
    tail: Tail,
    rows: TailRows,
    captured: Sequence[jax.Array],
    count: int,
    run_author: Callable[[], list[jax.Array]],
) -> tuple[list[jax.Array], jax.Array]:
    """The results of the tail's last operations, as dense gives them, and ``[rows proven, how far numbers are off]``.

    Args:
      captured: what the tail reads beside its logits.
      count: of candidates, on every shard.
      run_author: the author's own operations.
    """
    arithmetic = arithmetic_for(rows.target)
    scores, away = rows.predicted()
    everyone = Rows(None, None, tail.width, tail.width, shared=tail.mixed)
    first = tail.interpret(tail.start(None, around(scores, away), everyone), arithmetic, captured)
    chosen = rows.choose(first.points, count, tail.width, shared=tail.mixed)
    exact, slack = rows.exact(chosen)
    if tail.orders:
        chosen, exact, slack = rows.everywhere(chosen, exact, slack)
    inside = around(exact, slack)

    def attempt(scores: jax.Array, away: jax.Array) -> Attempt:
        run = tail.interpret(tail.start(inside, around(scores, away), chosen), arithmetic, captured)
        results, proven, off = [], jnp.ones(tail.rows, bool), jnp.zeros(tail.rows)
        for op in tail.ends:
            for value in op.results:
                if not any(value is read for read in tail.read):
                    results.append(jnp.zeros(value.shape, value.dtype))
                    continue
                low, high = run.bounds_of(value)
                if any(value is number for number in tail.numbers):
                    middle, reach = middle_of(low, high, value.dtype)
                    results.append(middle)
                    proven &= _by_row(jnp.isfinite(reach), tail.rows)
                    off = jnp.maximum(off, _largest(reach, tail.rows))
                    continue
                results.append(low.astype(value.dtype))
                proven &= _by_row(low == high, tail.rows)
        return results, proven, off

    # Each try costs a pass, and only in doubt; one loop, because the tail is by far the largest program. The last one
    # pays for a few rows, where the author's code would run for all.
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(attempt, scores, away))
    tries = 2 if tail.rows == 1 else 3

    def again(state: State) -> jax.Array:
        done, _, _, (_, proven, _) = state
        few = how_many(~proven) * 2 <= tail.rows
        return ~all_of(proven) & ((done < 2) | ((done < tries) & few))

    def once(state: State) -> State:
        done, scores, away, (_, proven, _) = state
        closer = [lambda: (scores, away), lambda: (scores, rows.finer())]
        closer += [lambda: rows.settled(proven, scores, away)][: tries - 2]
        scores, away = lax.switch(done, closer)
        return done + 1, scores, away, attempt(scores, away)

    *_, (results, proven, off) = lax.while_loop(again, once, (jnp.zeros((), jnp.int32), scores, away, nothing))
    made = lax.cond(all_of(proven), lambda: results, run_author)
    furthest = jnp.where(all_of(proven), jnp.max(off), 0.0)  # the author's own numbers are not off
    return made, jnp.stack([jnp.sum(rows.all_heads(proven), dtype=jnp.float32), furthest])


def middle_of(low: jax.Array, high: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    """The number in the middle, in its type, and how far the true one may be from it, roundings included."""
    middle = ((low + high) / 2).astype(dtype)
    unit = float(jnp.finfo(dtype).eps) + 2.0**-22
    return middle, (high - low) / 2 * (1 + 2.0**-20) + jnp.maximum(jnp.abs(low), jnp.abs(high)) * unit


def _by_row(check: jax.Array, batch: int) -> jax.Array:
    """Of every batch row, or of all where a value is not one of each row."""
    rows = _rows_first(check, batch)
    return jnp.broadcast_to(all_of(check), (batch,)) if rows is None else all_of(rows, 1)


def _largest(reach: jax.Array, batch: int) -> jax.Array:
    """Of every batch row, or of all where a value is not one of each row."""
    rows = _rows_first(reach, batch)
    return jnp.broadcast_to(reach.max(), (batch,)) if rows is None else rows.max(axis=1)


def _rows_first(array: jax.Array, batch: int) -> jax.Array | None:
    """An array as ``[batch, n]``, whose first or last dimensions are the batch; None if neither are."""
    if not array.size:
        return None
    ends = range(array.ndim + 1)
    if any(prod(array.shape[:i]) == batch for i in ends):
        return array.reshape(batch, -1)
    if any(prod(array.shape[i:]) == batch for i in ends):
        return array.reshape(-1, batch).T
    return None
