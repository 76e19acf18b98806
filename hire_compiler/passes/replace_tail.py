"""Replace an LM head and the code behind it, down to the tokens, where its winners alone do not say what is read."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from hire_compiler.passes.prove_tail import prove_tail
from hire_compiler.passes.replace_winners import row_bounds
from hire_compiler.passes.replacement import (
    AuthorsCode,
    Replacement,
    argument_views,
    canonical_input,
    held_matrices,
    lies_by_columns,
    make_preparation,
    take_batch_rows,
)
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.canonical import Outside
from hire_compiler.patterns.logits import HeadMatch
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.stored import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.weights import view
from hire_compiler.tails.program import following_of


def replace_tail(match: HeadMatch, plan: SitePlan, target: Target) -> Replacement:
    """The replacement of a head with a tail; where its proof fails, the author's own operations run."""
    dot, tail = match.dot, match.tail
    assert tail is not None
    by_columns = lies_by_columns(dot)
    weights = () if by_columns else (dot.weight,)
    preparation = make_preparation(match, plan, dot.weight, [], target, matrices=weights, proof=row_bounds)
    results = tuple(value for op in tail.ends for value in op.results)

    def step(
        prepared: Arrays,
        views: tuple[jax.Array, ...],
        x: jax.Array,
        *captured: jax.Array,
        run_author: Callable[[], list[jax.Array]],
    ) -> list[jax.Array]:
        held = views[0] if by_columns else held_matrices(weights, prepared, views, target)[0]
        kept = view(dot.columns, held) if by_columns else held
        made, measured = prove_tail(
            tail,
            take_batch_rows(canonical_input(x, dot), match.rows),
            StoredRows(kept, target, by_columns),
            prepared,
            captured,
            plan.candidates,
            target,
            run_author,
            precise=dot.precise,
        )
        return [*made, measured]

    return Replacement(
        preparation=preparation,
        values=(dot.x,),
        views=(dot.columns.argument,) if by_columns else argument_views(weights, target),
        step=step,
        results=results,
        before=max(tail.ends, key=lambda op: op.position),
        signature=repr(("tail", id(match))),
        measure="proof",
        captured=tuple(Outside(value, np.arange(value.size).reshape(value.shape), None) for value in tail.captured),
        inside=tail.ops,
        author=AuthorsCode(dot.op, tail.ends, dot.x, tuple(following_of(dot.result))),
    )
