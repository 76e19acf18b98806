"""A head with a tail at run time: run the author's code on bounds, or run it as it was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.passes.replace.tail_rows import TailRows
from hire_compiler.proofs.enclosure import arithmetic_for
from hire_compiler.proofs.interval import around
from hire_compiler.tails.program import Tail
from hire_compiler.tails.values import Rows

Attempt = tuple[list[jax.Array], jax.Array]  # the results, and which batch rows are proven
State = tuple[
    jax.Array, jax.Array, jax.Array, Attempt
]  # tries done, logits, how far off they may be, and what came out


def prove_tail(
    tail: Tail,
    rows: TailRows,
    captured: Sequence[jax.Array],
    count: int,
    run_author: Callable[[], list[jax.Array]],
) -> tuple[list[jax.Array], jax.Array]:
    """The results of the tail's last operations, as dense gives them, and ``[rows proven, 0]``.

    Args:
      captured: what the tail reads beside its logits.
      count: of candidates, on every shard.
      run_author: the author's own operations.
    """
    arithmetic = arithmetic_for(rows.target)
    scores, away = rows.predicted()
    everyone = Rows(None, None, tail.width, tail.width, shared=tail.mixed)
    first = tail.interpret(tail.start(None, around(scores, away), everyone), arithmetic, captured)
    chosen = rows.choose(list(first.points.values()), count, tail.width, shared=tail.mixed)
    exact, slack = rows.exact(chosen)
    if tail.orders:
        chosen, exact, slack = rows.everywhere(chosen, exact, slack)
    inside = around(exact, slack)

    def attempt(scores: jax.Array, away: jax.Array) -> Attempt:
        run = tail.interpret(tail.start(inside, around(scores, away), chosen), arithmetic, captured)
        results, proven = [], jnp.ones(tail.rows, bool)
        for op in tail.ends:
            for value in op.results:
                if not any(value is read for read in tail.read):
                    results.append(jnp.zeros(value.shape, value.dtype))
                    continue
                low, high = run.bounds_of(value)
                results.append(low.astype(value.dtype))
                proven &= _by_row(low == high, tail.rows)
        return results, proven

    # Each try costs a pass, and only in doubt; one loop, because the tail is by far the largest program. The last one
    # pays for a few rows, where the author's code would run for all.
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(attempt, scores, away))
    tries = 2 if tail.rows == 1 else 3

    def again(state: State) -> jax.Array:
        done, _, _, (_, proven) = state
        few = jnp.sum(~proven) * 2 <= tail.rows
        return ~proven.all() & ((done < 2) | ((done < tries) & few))

    def once(state: State) -> State:
        done, scores, away, (_, proven) = state
        closer = [lambda: (scores, away), lambda: (scores, rows.finer())]
        closer += [lambda: rows.settled(proven, scores, away)][: tries - 2]
        scores, away = lax.switch(done, closer)
        return done + 1, scores, away, attempt(scores, away)

    *_, (results, proven) = lax.while_loop(again, once, (jnp.zeros((), jnp.int32), scores, away, nothing))
    made = lax.cond(proven.all(), lambda: results, run_author)
    return made, jnp.stack([jnp.sum(proven, dtype=jnp.float32), jnp.zeros(())])


def _by_row(check: jax.Array, batch: int) -> jax.Array:
    """Of every batch row, or of all where a value is not one of each row."""
    if check.size and check.size % batch == 0:
        return check.reshape(batch, -1).all(axis=1)
    return jnp.broadcast_to(check.all(), (batch,))
