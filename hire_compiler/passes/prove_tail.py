"""A head with a tail at run time: run the author's code on bounds, or run it as it was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.enclosure import arithmetic_for
from hire_compiler.interval import around
from hire_compiler.passes.replacement import predictor_arrays
from hire_compiler.runtime.certify import finer_room, room, rounding_slack
from hire_compiler.runtime.logits import exact_logits
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.stored import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import top_candidates
from hire_compiler.tails.program import Tail


def prove_tail(
    tail: Tail,
    x: jax.Array,
    rows: StoredRows,
    prepared: Arrays,
    captured: Sequence[jax.Array],
    count: int,
    target: Target,
    run_author: Callable[[], list[jax.Array]],
    *,
    precise: bool,
) -> tuple[list[jax.Array], jax.Array]:
    """The results of the tail's last operations, as dense gives them, and ``[rows proven, 0]``.

    Args:
      x: inputs of the batch rows that are read, ``[b, d]``.
      rows: the output matrix.
      captured: what the tail reads beside its logits.
      count: of candidates.
      run_author: the author's own operations.
      precise: the author asked for the platform's highest precision.
    """
    arithmetic = arithmetic_for(target)
    bounds = {name: prepared[name] for name in ("bound", "norm", "blocks")}
    scores = predict(x, predictor_arrays(prepared), target, precise=True)
    away = room(bounds["bound"], x)
    first = tail.interpret(tail.start(None, around(scores, away), None), arithmetic, captured)
    ids = choose(list(first.points.values()), count, scores.shape[1], target)
    exact = exact_logits(x, rows, ids, precise=precise)
    inside = around(exact, 2 * rounding_slack(bounds["norm"][ids], x))

    def attempt(away: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        run = tail.interpret(tail.start(inside, around(scores, away), ids), arithmetic, captured)
        results, proven = [], jnp.ones(x.shape[0], bool)
        for op in tail.ends:
            for value in op.results:
                if not any(value is read for read in tail.read):
                    results.append(jnp.zeros(value.shape, value.dtype))
                    continue
                low, high = run.bounds_of(value)
                results.append(low.astype(value.dtype))
                proven &= _by_row(low == high, x.shape[0])
        return results, proven

    # The finer bounds cost another pass, and only in doubt; one loop, because the tail is by far the largest program.
    shapes = jax.eval_shape(attempt, away)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    def again(state: tuple[jax.Array, tuple[list[jax.Array], jax.Array]]) -> jax.Array:
        tries, (_, proven) = state
        return (tries < 2) & ~proven.all()

    def once(
        state: tuple[jax.Array, tuple[list[jax.Array], jax.Array]],
    ) -> tuple[jax.Array, tuple[list[jax.Array], jax.Array]]:
        tries, _ = state
        reach = lax.cond(tries == 0, lambda: away, lambda: finer_room(bounds, x, target))
        return tries + 1, attempt(reach)

    _, (results, proven) = lax.while_loop(again, once, (jnp.zeros((), jnp.int32), nothing))
    made = lax.cond(proven.all(), lambda: results, run_author)
    return made, jnp.stack([jnp.sum(proven, dtype=jnp.float32), jnp.zeros(())])


def _by_row(check: jax.Array, batch: int) -> jax.Array:
    """Of every batch row, or of all where a value is not one of each row."""
    if check.size and check.size % batch == 0:
        return check.reshape(batch, -1).all(axis=1)
    return jnp.broadcast_to(check.all(), (batch,))


def choose(points: list[jax.Array], count: int, width: int, target: Target) -> jax.Array:
    """Candidates that hold the best of everything that is compared: int32 ``[b, count]``, ascending, none twice."""
    padded = [jnp.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-jnp.inf) for p in points]
    if len(padded) == 1:
        return top_candidates(padded[0], count, target)
    share = count // len(padded)
    above = []
    for point in padded:
        best = top_candidates(point, share, target)
        last = jnp.min(jnp.take_along_axis(point, best, axis=1), axis=1, keepdims=True)
        far = jnp.where(point > -jnp.inf, point, -jnp.inf)
        above.append(jnp.where(jnp.isfinite(last), point - last, far))
    return top_candidates(jnp.stack(above).max(axis=0), count, target)
