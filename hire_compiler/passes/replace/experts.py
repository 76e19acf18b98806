"""Replace a layer of experts: those that no row of the batch uses are not computed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.preparing import argument_views, held_matrices, how_held, make_preparation
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.patterns.experts.experts import ExpertsMatch
from hire_compiler.proofs.expert_zeros import adds_nothing, seen
from hire_compiler.runtime.experts import ExpertRows, chosen_experts, expert_sizes
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import Target


def replace_experts(match: ExpertsMatch, plan: SitePlan, target: Target, *, local: bool = False) -> Replacement:
    """The replacement of a planned layer of experts."""
    code, kernels, weights = match.region.code, match.kernels, match.weights
    stacked = match.layer is not None
    experts, result = code.experts, match.total.result

    def sizes(rows: jax.Array, prepared: Arrays, matrix: Callable[[int], jax.Array]) -> Arrays:
        return {
            f"size{i}": expert_sizes(matrix(i), experts, by_rows=kernel.by_rows) for i, kernel in enumerate(kernels)
        }

    def step(prepared: Arrays, views: tuple[jax.Array, ...], *values: jax.Array) -> list[jax.Array]:
        layer = values[0].reshape(()) if stacked else None
        captured = values[stacked:]
        held = held_matrices(weights, prepared, views, target, looped=True)
        parts = [
            ExpertRows(matrix, kernel.rows, kernel.by_rows, kernel.dot.precise, layer)
            for matrix, kernel in zip(held, kernels, strict=True)
        ]
        known = [seen(value, axis) for value, axis in zip(captured, code.captured, strict=True)]
        limits = [prepared[f"size{i}"] for i in range(len(kernels))]
        zero = adds_nothing(code, known, [limit if layer is None else limit[layer] for limit in limits])
        needed = jnp.broadcast_to(jnp.logical_not(zero), (experts,))
        total, count = chosen_experts(
            needed, parts, lambda e, product: code.evaluate(captured, e, product), result.shape, target
        )
        skipped = jnp.where(count < experts, plan.site.batch, 0).astype(jnp.int32)
        return [total.astype(jnp.dtype(result.dtype)), skipped]

    return Replacement(
        preparation=make_preparation(match, plan, weights[0], [], target, proof=sizes, looped=True),
        values=(*(() if match.layer is None else (match.layer,)), *match.region.captured),
        views=argument_views(weights, target, looped=True),
        step=step,
        results=(result,),
        before=match.total,
        signature=repr((
            "experts", code, how_held(weights),
            [(kernel.rows, kernel.by_rows, kernel.dot.precise) for kernel in kernels],
        )),
        measure="proof",
    )  # fmt: skip
