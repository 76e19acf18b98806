"""Replace an LM head: exact logits on predicted candidates, proven where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.calibration import Calibration
from hire_compiler.passes.plan import SitePlan
from hire_compiler.passes.replacement import (
    Replacement,
    argument_views,
    canonical_input,
    held_matrices,
    make_preparation,
    predictor_arrays,
    restore_result,
    site_matrices,
)
from hire_compiler.patterns.canonical import Region
from hire_compiler.patterns.dots import WeightDot
from hire_compiler.patterns.logits import HeadMatch, Winner
from hire_compiler.runtime.certify import rounding_slack, upper_bounds, winners_proven
from hire_compiler.runtime.logits import candidate_logits, exact_logits, sparse_logits
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import Compare, top_candidates


def replace_head(match: HeadMatch, plan: SitePlan, calibration: Calibration | None, target: Target) -> Replacement:
    """The replacement of a planned head: of its winners where only those are read, else of its logits."""
    if plan.winners_only:
        return _replace_winners(match, plan, calibration, target)
    dot = match.dot
    weights = site_matrices(match)
    vectors = [(origin.weight, index) for region in match.compared for origin, index in region.parameters]
    preparation = make_preparation(match, plan, dot.weight, vectors, calibration, target)
    owners = np.cumsum([0, *(len(region.parameters) for region in match.compared)])

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array) -> list[jax.Array]:
        (rows,) = held_matrices(weights, prepared, views, target)
        logits = sparse_logits(
            canonical_input(x, dot),
            rows,
            predictor_arrays(prepared),
            plan.candidates,
            plan.tail,
            target,
            compared=[
                comparison(region, [prepared[f"vector{i}"] for i in range(first, last)])
                for region, (first, last) in zip(match.compared, pairwise(owners), strict=True)
            ],
            survivors=plan.survivors,
            precise=dot.precise,
        )
        return [restore_result(logits, dot)]

    return Replacement(
        preparation=preparation,
        values=(dot.x,),
        views=argument_views(weights, target),
        step=step,
        results=(dot.result,),
        before=dot.op,
        signature=repr(("head", id(match))),
    )


def _replace_winners(match: HeadMatch, plan: SitePlan, calibration: Calibration | None, target: Target) -> Replacement:
    dot = match.dot
    weights = site_matrices(match)
    vectors = [(origin.weight, index) for winner in match.winners for origin, index in winner.region.parameters]
    preparation = make_preparation(match, plan, dot.weight, vectors, calibration, target)
    owners = np.cumsum([0, *(len(winner.region.parameters) for winner in match.winners)])

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array) -> list[jax.Array]:
        (rows,) = held_matrices(weights, prepared, views, target)
        own = [prepared[f"vector{i}"] for i in range(len(vectors))]
        by_winner = [own[first:last] for first, last in pairwise(owners)]

        def pick(logits: jax.Array, ids: jax.Array | None) -> list[jax.Array]:
            picked = [_pick_winner(w, logits, ids, v) for w, v in zip(match.winners, by_winner, strict=True)]
            return [value for pair in picked for value in pair]

        small, predictor = canonical_input(x, dot), predictor_arrays(prepared)
        if not plan.certify:
            ids, exact = candidate_logits(
                small, rows, predictor, plan.candidates, target,
                compared=[comparison(match.winners[0].region, by_winner[0])], survivors=plan.survivors,
                precise=dot.precise,
            )  # fmt: skip
            return pick(exact.astype(jnp.dtype(dot.result.dtype)), ids)
        upper = upper_bounds(predict(small, predictor, target), prepared["bound"], small)
        ids = top_candidates(upper, plan.candidates, target)
        exact = exact_logits(small, rows, ids, target, precise=dot.precise)
        first = match.winners[0].region

        def compared(logits: jax.Array, values: Sequence[jax.Array]) -> jax.Array:
            rounded = logits.astype(jnp.dtype(dot.result.dtype))
            return first.expression.evaluate([rounded, *values], exact=True).astype(jnp.float32)

        proven = winners_proven(
            exact,
            # Two roundings lie between what is computed here and what dense computes: each side's own.
            2 * rounding_slack(prepared["norm"][ids], small),
            upper,
            ids,
            compared,
            by_winner[0],
            max(winner.k for winner in match.winners),
            strict=plan.certify == "strict",
        )
        results = lax.cond(
            proven.all(),
            lambda: pick(exact.astype(jnp.dtype(dot.result.dtype)), ids),
            lambda: pick(_dense_logits(x, rows, dot), None),
        )
        return [*results, jnp.sum(proven, dtype=jnp.int32)]

    return Replacement(
        preparation=preparation,
        values=(dot.x,),
        views=argument_views(weights, target),
        step=step,
        results=tuple(value for winner in match.winners for value in winner.op.results),
        before=min((winner.op for winner in match.winners), key=lambda op: op.position),
        signature=repr(("head", id(match))),
        counted=bool(plan.certify),
    )


def comparison(region: Region, vectors: Sequence[jax.Array]) -> Compare:
    """From predicted logits to what the program would compare, in float32."""
    ranking = region.expression.widened
    floats = [v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in vectors]

    def compare(scores: jax.Array, ids: jax.Array | None) -> jax.Array:
        own = floats if ids is None else [vector[ids] for vector in floats]
        return ranking.evaluate([scores, *own], exact=True).astype(jnp.float32)

    return compare


def _dense_logits(x: jax.Array, rows: jax.Array, dot: WeightDot) -> jax.Array:
    """The author's own product, on the prepared layout: ``[batch, rows]`` in the type it had."""
    precision = lax.Precision.HIGHEST if dot.precise else None
    dtype = jnp.dtype(dot.result.dtype)
    sides = (rows, canonical_input(x, dot)) if dot.rows_first else (canonical_input(x, dot), rows)
    rows_dims = (((1,), (1,)), ((), ()))
    logits = lax.dot_general(*sides, rows_dims, precision=precision, preferred_element_type=dtype)
    return logits.T if dot.rows_first else logits


def _pick_winner(
    winner: Winner, logits: jax.Array, ids: jax.Array | None, vectors: Sequence[jax.Array]
) -> list[jax.Array]:
    """The results of one argmax or top_k, from the logits of candidates ``ids`` or (None) of all rows."""
    chosen = winner.region.batch_rows
    if not np.array_equal(chosen, np.arange(logits.shape[0])):
        logits, ids = logits[chosen], None if ids is None else ids[chosen]
    own = [vector if ids is None else vector[ids] for vector in vectors]
    values = winner.region.expression.evaluate([logits, *own], exact=True)
    value_out, index_out = winner.op.results
    if winner.kind == "argmax":
        at = jnp.argmax(values, axis=-1, keepdims=True)
        best = jnp.take_along_axis(values, at, axis=-1)
    else:
        best, at = lax.top_k(values, winner.k)
    where = at if ids is None else jnp.take_along_axis(ids, at, axis=-1)
    return [
        best.reshape(value_out.shape).astype(jnp.dtype(value_out.dtype)),
        where.reshape(index_out.shape).astype(jnp.dtype(index_out.dtype)),
    ]
