"""Replace an LM head: exact logits on predicted candidates, proven where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.preparing import (
    argument_views,
    held_matrices,
    kept_weights,
    make_preparation,
    predictor_arrays,
)
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.passes.replace.shapes import canonical_input, take_batch_rows
from hire_compiler.passes.replace.tail import replace_tail
from hire_compiler.passes.replace.winners import replace_winners
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.region.canonical import Region
from hire_compiler.runtime.logits import exact_logits, fill_tail, select_candidates
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import Compare


def replace_head(match: HeadMatch, plan: SitePlan, target: Target, *, local: bool = False) -> Replacement:
    """The replacement of a planned head: of its winners where only those are read, else of its logits.

    Args:
      local: the match is restated in the sizes of one shard.
    """
    if plan.winners_only:
        return replace_winners(match, plan, target, local=local)
    if plan.certify and match.tail_of(plan.logprobs) is not None:
        return replace_tail(match, plan, target)
    dot = match.dot
    weights = kept_weights(match, plan)
    vectors = [(origin.weight, index) for region in match.compared for origin, index in region.parameters]
    preparation = make_preparation(match, plan, dot.weight, vectors, target)
    owners = np.cumsum([0, *(len(region.parameters) for region in match.compared)])

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array) -> list[jax.Array]:
        (rows,) = held_matrices(weights, prepared, views, target)
        inputs = take_batch_rows(canonical_input(x, dot), match.rows)
        compared = [
            comparison(region, [prepared[f"vector{i}"] for i in range(first, last)])
            for region, (first, last) in zip(match.compared, pairwise(owners), strict=True)
        ]
        ids, scores = select_candidates(
            inputs, predictor_arrays(prepared), plan.candidates, target, compared=compared, survivors=plan.survivors
        )
        exact = exact_logits(inputs, StoredRows(rows, target), ids, precise=dot.precise)
        error = jnp.take_along_axis(scores, ids, axis=1) - exact
        logits = _restored(fill_tail(scores, ids, exact, plan.tail), match)
        return [logits, jnp.stack([jnp.sum(jnp.mean(error * error, axis=1)), jnp.max(jnp.abs(error))])]

    return Replacement(
        preparation=preparation,
        values=(dot.x,),
        views=argument_views(weights, target),
        step=step,
        results=(match.logits,),
        before=match.logits.op or dot.op,
        signature=repr(("head", id(match))),
        measure="tail",
    )


def _restored(logits: jax.Array, match: HeadMatch) -> jax.Array:
    """Logits ``[r, n]`` of the rows that are read, in the shape and type of what is replaced."""
    dtype, shape = jnp.dtype(match.logits.dtype), match.logits.shape
    if match.logits is match.dot.result and match.dot.rows_first:
        return logits.T.astype(dtype).reshape(shape)
    return logits.astype(dtype).reshape(shape)


def comparison(region: Region, vectors: Sequence[jax.Array]) -> Compare:
    """From predicted logits to what the program would compare, in float32."""
    ranking = region.expression.widened
    floats = [v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in vectors]

    def compare(scores: jax.Array, ids: jax.Array | None) -> jax.Array:
        own = floats if ids is None else [vector[ids] for vector in floats]
        return ranking.evaluate([scores, *own], exact=True).astype(jnp.float32)

    return compare
