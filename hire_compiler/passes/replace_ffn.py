"""Replace a feed-forward block: predict its groups of neurons, compute those alone."""

from __future__ import annotations

import jax

from hire_compiler.calibration import Calibration
from hire_compiler.config import Exact
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
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.runtime.ffn import Form, exact_ffn, select_groups, sparse_ffn
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import Target


def replace_ffn(match: FfnMatch, plan: SitePlan, calibration: Calibration | None, target: Target) -> Replacement:
    """The replacement of a planned feed-forward block."""
    activation, up = match.activation, match.products[0]
    weights = site_matrices(match)
    vectors = [(origin.weight, index) for origin, index in match.biases]
    gate = match.matrices[activation.gate]
    preparation = make_preparation(match, plan, gate, vectors, calibration, target)
    stacked = match.layer is not None

    def step(prepared: Arrays, views: tuple[jax.Array, ...], x: jax.Array, *layers: jax.Array) -> list[jax.Array]:
        layer = layers[0].reshape(()) if stacked else None
        rows = canonical_input(x, up)
        biases = [prepared[f"vector{i}"] for i in range(len(vectors))]
        *inputs, down = held_matrices(weights, prepared, views, target)
        form = Form(
            activation=lambda *values: match.region.expression.evaluate(values, exact=True),
            group=plan.group,
            target=target,
            layer=layer,
            product_dtype=up.result.dtype,
            precise=up.precise,
            down_precise=match.down.precise,
        )
        if isinstance(plan.predictor, Exact):
            budget = plan.candidates // plan.group
            y, held = exact_ffn(rows, inputs, down, biases, activation.gate, activation.gate_bias, budget, form)
            return [restore_result(y, match.down), held]
        groups = select_groups(
            rows,
            predictor_arrays(prepared),
            None if activation.gate_bias is None else biases[activation.gate_bias],
            activation.name,
            plan.group,
            plan.candidates // plan.group,
            target,
            layer,
        )
        y = sparse_ffn(rows, inputs, down, biases, groups, form)
        return [restore_result(y, match.down)]

    return Replacement(
        preparation=preparation,
        values=(match.x, match.layer) if match.layer is not None else (match.x,),
        views=argument_views(weights, target),
        step=step,
        results=(match.down.result,),
        before=match.down.op,
        signature=repr((
            plan.predictor, plan.candidates, plan.group, activation, match.region.expression, up.x_free,
            up.x_contracting, match.down.row_shape, match.down.rows_first, len(vectors), up.precise,
            match.down.precise, [(w.shape, w.layers, w.is_view) for w in weights],
        )),
        counted=isinstance(plan.predictor, Exact),
    )  # fmt: skip
