"""Replace an LM head whose output feeds only argmax, top_k, Gumbel-max sampling."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hire_compiler.graph.weight import Weight
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.preparing import (
    Proof,
    argument_views,
    held_matrices,
    kept_weights,
    lies_by_columns,
    make_preparation,
    pieces_for,
)
from hire_compiler.passes.replace.prove_winners import HeadAtWork, prove
from hire_compiler.passes.replace.read_vectors import entries
from hire_compiler.passes.replace.replacement import AuthorsCode, Replacement, in_place
from hire_compiler.passes.replace.shapes import canonical_input
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.head.winners import grouped, replaced_before
from hire_compiler.runtime.certify import prepare_bound
from hire_compiler.runtime.collectives import NUMBERS, Numbering
from hire_compiler.runtime.materialize import view
from hire_compiler.runtime.pieces import in_pieces
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target


def replace_winners(match: HeadMatch, plan: SitePlan, target: Target, *, local: bool = False) -> Replacement:
    """The replacement of a head whose readers keep only the best of the same values.

    Args:
      local: the match is restated in the sizes of one shard: the author's operations are not run inside its step.
    """
    dot, groups = match.dot, grouped(match.winners)
    firsts = [group[0] for group in groups]
    strict = plan.certify == "strict"
    by_columns = strict and lies_by_columns(dot)
    weights = () if by_columns else kept_weights(match, plan)
    vectors = [(origin.weight, index) for first in firsts for origin, index in first.region.parameters]
    # Vectors are small, and may be another request's in the next call: they are read from their arguments.
    held_vectors = vectors if local else []
    preparation = make_preparation(
        match,
        plan,
        dot.weight,
        held_vectors,
        target,
        matrices=weights,
        proof=row_bounds(dot.weight, target) if plan.certify else None,
    )
    views = (dot.columns.argument,) if by_columns else argument_views(weights, target)
    noises = [first.noise for first in firsts if first.noise is not None]
    captured = tuple(entry for first in firsts for entry in first.region.captured)
    replaced = tuple(value for winner in match.winners for value in winner.op.results)
    before = replaced_before(match.winners)
    assert before is not None, "such winners are not captured"
    author = AuthorsCode((dot.start,), tuple(w.op for w in match.winners)) if strict else None

    def step(
        prepared: Arrays,
        views: tuple[jax.Array, ...],
        x: jax.Array,
        *more: jax.Array,
        run_author: Callable[[], list[jax.Array]] | None = None,
    ) -> list[jax.Array]:
        held = views[0] if by_columns else held_matrices(weights, prepared, views, target)[0]
        kept = view(dot.columns, held) if by_columns else held
        read = views[len(views) - len(vectors) :] if vectors and not local else ()
        parameters = iter(
            [prepared[f"vector{i}"] for i in range(len(vectors))]
            if local
            else [entries(*vector, array) for vector, array in zip(vectors, read, strict=True)]
        )
        outside = iter([in_place(array, entry) for array, entry in zip(more[len(noises) :], captured, strict=True)])
        noise = iter(more[: len(noises)])
        heads = []
        for group in groups:
            own = [next(parameters) for _ in group[0].region.parameters]
            own += [next(outside) for _ in group[0].region.captured]
            own += (
                [] if group[0].noise is None else [next(noise).reshape(len(match.rows), min(group[0].width, dot.rows))]
            )
            rows = StoredRows(kept, target, by_columns)
            inputs = canonical_input(x, dot)
            real = None
            if group[0].all_shards is not None:
                numbering = Numbering(dot.rows, plan.axes, prepared.get(NUMBERS))
                real = numbering.of_all(jnp.arange(dot.rows)) < group[0].all_shards
            heads.append(HeadAtWork(match, tuple(group), plan, target, rows, inputs, tuple(own), real))
        if plan.certify:
            results, measured = prove(heads, prepared, run_author)
        else:
            results, measured = [part for head in heads for part in head.likely(prepared)], None
        outputs = [
            array.reshape(output.shape).astype(jnp.dtype(output.dtype))
            for array, output in zip(results, replaced, strict=True)
        ]
        return outputs if measured is None else [*outputs, measured]

    return Replacement(
        preparation=preparation,
        values=(dot.x, *noises),
        views=views if local else (*views, *(weight.argument for weight, _ in vectors)),
        step=step,
        results=replaced,
        before=before,
        signature=repr(("head", id(match))),
        measure="proof" if plan.certify else "",
        captured=captured,
        author=author,
    )


def row_bounds(weight: Weight, target: Target) -> Proof:
    """Bounds of the copy of every row of a weight."""
    pieces = pieces_for(weight, target)

    def bounds(rows: jax.Array, q: jax.Array, scale: jax.Array) -> Arrays:
        return prepare_bound(rows, {"q": q, "scale": scale})

    def proof(rows: jax.Array, prepared: Arrays, matrix: Callable[[int], jax.Array]) -> Arrays:
        given = rows, prepared["q"], prepared["scale"]
        return bounds(*given) if pieces is None else in_pieces(bounds, given, pieces)

    return proof
