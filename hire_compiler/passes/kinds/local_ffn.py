"""A feed-forward block over devices: each computes its own neurons, and their partial sums are added up."""

from __future__ import annotations

from dataclasses import replace

import jax

from hire_compiler.passes.kinds.local_match import Localizer, Meeting, OnMesh, Source, outer_size
from hire_compiler.passes.kinds.local_match import result_batch_dims as batch_dims
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.runtime.collectives import sum_shards
from hire_compiler.sharding.layout import Axes, NotLocal, SiteLayout


def _rows(match: FfnMatch, plain: SiteLayout, source: Source) -> tuple[Axes, bool]:
    splits = {plain.local(w, source(w))[1] for w in match.weights}
    if any(columns for _, columns in splits):
        raise NotLocal(
            "its weights are split over the model's width (FSDP?), so every device has to gather them, as the "
            "program does"
        )
    if match.givens or match.beside:
        what = "an adapter adds to its products" if match.is_adapted else "numbers of its batch rows enter"
        raise NotLocal(f"{what}, which is not followed over devices yet")
    if len(splits) > 1:
        raise NotLocal("its matrices are split differently, so no device holds all parts of a neuron")
    ((rows, _),) = splits
    if rows and match.activation.selection:
        raise NotLocal(f"the model chooses neurons itself ({match.activation.selection}) among those of all devices")
    if rows and match.region.expression.rowwise:
        raise NotLocal("its activation compares the neurons of all devices")
    return rows, False


def _divides(match: FfnMatch, parts: int) -> bool:
    dots = (*match.products, match.down)
    return all(dot.batch % parts == 0 and outer_size(dot.batch_shape) % parts == 0 for dot in dots)


def _local(match: FfnMatch, local: Localizer) -> FfnMatch:
    x = local.value(match.x, match.products[0].x_free)
    down = match.down
    local_down = replace(
        down,
        op=local.op(down.op, [local.value(down.result, batch_dims(down))]),
        x=local.value(down.x, down.x_free),
        columns=local.matrix(down.columns),
    )
    return replace(
        match,
        down=local_down,
        products=tuple(replace(dot, x=x) for dot in match.products),
        matrices=tuple(local.matrix(weight) for weight in match.matrices),
        biases=tuple(local.vector(origin, index) for origin, index in match.biases),
    )


def _meet(match: FfnMatch, results: list[jax.Array], meeting: Meeting) -> list[jax.Array]:
    return [sum_shards(y, meeting.layout.rows) for y in results]


FFN_ON_MESH = OnMesh(_rows, _divides, _local, _meet, numbered=False)
