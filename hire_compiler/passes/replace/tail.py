"""Replace an LM head and the code behind it, down to the tokens, where its winners alone do not say what is read."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.over_mesh import sharded_preparation
from hire_compiler.passes.replace.preparing import argument_views, held_matrices, lies_by_columns, make_preparation
from hire_compiler.passes.replace.prove_tail import prove_tail
from hire_compiler.passes.replace.replacement import AuthorsCode, Replacement
from hire_compiler.passes.replace.shapes import canonical_input, take_batch_rows
from hire_compiler.passes.replace.tail_rows import Parts, TailRows
from hire_compiler.passes.replace.winners import row_bounds
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.region.canonical import Outside
from hire_compiler.runtime.materialize import view
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.sharding.layout import SiteLayout
from hire_compiler.tails.program import following_of


def replace_tail(
    match: HeadMatch, plan: SitePlan, target: Target, shard: HeadMatch | None = None, layout: SiteLayout | None = None
) -> Replacement:
    """The replacement of a head with a tail; where its proof fails, the author's own operations run.

    Args:
      plan: on several devices, that of one shard.
      shard: the match in the sizes of one device, where there are several.
      layout: how it lies on them.
    """
    dot, tail = match.dot, match.tail_of(plan.logprobs)
    assert tail is not None
    local = match if shard is None else shard
    by_columns = lies_by_columns(local.dot)
    weights = () if by_columns else (local.dot.weight,)
    preparation = make_preparation(
        local, plan, local.dot.weight, [], target, matrices=weights, proof=row_bounds(local.dot.weight, target)
    )
    views = (local.dot.columns.argument,) if by_columns else argument_views(weights, target)
    parts = None
    if layout is not None:
        preparation = sharded_preparation(preparation, layout, None)
        assert preparation.spread is not None
        whole = np.array_equal(match.rows, np.arange(dot.batch))
        parts = Parts(
            layout.mesh,
            layout.rows,
            layout.batch if whole and not tail.mixed else (),
            preparation.spread.spec,
            tuple(map(layout.argument, views)),
        )
    results = tuple(value for op in tail.ends for value in op.results)

    def hold(prepared: Arrays, views: tuple[jax.Array, ...]) -> StoredRows:
        held = views[0] if by_columns else held_matrices(weights, prepared, views, target)[0]
        kept = view(local.dot.columns, held) if by_columns else held
        return StoredRows(kept, target, by_columns)

    def step(
        prepared: Arrays,
        views: tuple[jax.Array, ...],
        x: jax.Array,
        *captured: jax.Array,
        run_author: Callable[[], list[jax.Array]],
    ) -> list[jax.Array]:
        inputs = take_batch_rows(canonical_input(x, dot), match.rows)
        one_array = (match.heads, dot.rows_first)
        rows = TailRows(inputs, prepared, views, hold, target, dot.precise, dot.result.dtype, parts, *one_array)
        made, measured = prove_tail(tail, rows, captured, plan.candidates, run_author)
        return [*made, measured]

    return Replacement(
        preparation=preparation,
        values=(dot.x,),
        views=views,
        step=step,
        results=results,
        before=max(tail.ends, key=lambda op: op.position),
        signature=repr(("tail", id(match), layout)),
        measure="proof",
        captured=tuple(Outside(value, np.arange(value.size).reshape(value.shape), None) for value in tail.captured),
        inside=tail.ops,
        late=tail.late,
        author=AuthorsCode((dot.start,), tail.ends, tuple(following_of(dot.result))),
    )
