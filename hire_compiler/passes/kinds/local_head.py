"""An LM head over devices: each ranks its own rows of the vocabulary, and their winners meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

from hire_compiler.graph.graph import Value
from hire_compiler.passes.kinds.local_match import Localizer, Meeting, OnMesh, Source, batch_dimension, outer_size
from hire_compiler.passes.kinds.local_match import result_batch_dims as batch_dims
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.passes.replace.tail import replace_tail
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.head.winners import Winner
from hire_compiler.patterns.region.canonical import Region
from hire_compiler.runtime.collectives import Numbering, best_of_shards, meet_winners
from hire_compiler.runtime.target import Target
from hire_compiler.sharding.layout import Axes, NotLocal, SiteLayout


def _rows(match: HeadMatch, plain: SiteLayout, source: Source) -> tuple[Axes, bool]:
    if match.heads > 1:
        raise NotLocal(f"its {match.heads} heads lie in one array, which is not split over devices yet")
    _, (rows, columns) = plain.local(match.dot.weight, source(match.dot.weight))
    if not columns:
        return rows, False
    if rows:
        raise NotLocal("its weight is split over rows and columns, so every device has to gather part of it")
    if match.dot.rows % plain.mesh.size(columns):
        raise NotLocal(f"its {match.dot.rows} rows do not divide over {plain.mesh.size(columns)} devices")
    return columns, True


def _divides(match: HeadMatch, parts: int) -> bool:
    dot, straight = match.dot, np.arange(match.dot.batch)
    outer = [dot.batch, outer_size(dot.batch_shape), *(outer_size(w.op.results[0].shape) for w in match.winners)]
    regions = [*(winner.region for winner in match.winners), *match.compared]
    in_order = all(np.array_equal(region.batch_rows, straight) for region in regions)
    return in_order and all(size % parts == 0 for size in outer)


def _local(match: HeadMatch, local: Localizer) -> HeadMatch:
    dot = match.dot
    row_dim = batch_dimension(dot.row_shape, range(len(dot.row_shape))) or 0
    place = row_dim if dot.rows_first else row_dim + len(dot.batch_shape)
    row_shape = list(dot.row_shape)
    row_shape[row_dim] //= local.layout.shards
    local_dot = replace(
        dot,
        op=local.op(dot.op, [local.value(dot.result, batch_dims(dot), rows_at=place)]),
        x=local.value(dot.x, dot.x_free),
        weight=local.matrix(dot.weight),
        columns=local.part(dot.columns),
        row_shape=tuple(row_shape),
    )
    regions: dict[int, Region] = {}
    noises: dict[int, Value] = {}
    winners = tuple(_local_winner(winner, local, regions, noises) for winner in match.winners)
    return replace(
        match,
        dot=local_dot,
        logits=local_dot.result,
        rows=winners[0].region.batch_rows if winners else np.arange(local_dot.batch),
        winners=winners,
        tail=None,
        compared=tuple(local.region(region, regions) for region in match.compared),
    )


def _local_winner(winner: Winner, local: Localizer, regions: dict[int, Region], noises: dict[int, Value]) -> Winner:
    results = [local.value(value, range(len(value.shape))) for value in winner.op.results]
    rows = winner.region.products[0].rows if local.layout.rows else None
    if winner.noise is not None and id(winner.noise) not in noises:
        last = len(winner.noise.shape) - 1
        noises[id(winner.noise)] = local.value(winner.noise, range(last), rows_at=last, rows=rows)
    return replace(
        winner,
        op=local.op(winner.op, results),
        region=local.region(winner.region, regions),
        noise=None if winner.noise is None else noises[id(winner.noise)],
        all_shards=None if rows in (None, winner.width) else winner.width,
    )


def _meet(match: HeadMatch, results: list[jax.Array], meeting: Meeting) -> list[jax.Array]:
    if not match.winners or meeting.plan.certify == "strict":
        return results  # a strict proof has had to know all shards' winners
    numbering, parts = Numbering(meeting.plan.site.width, meeting.layout.rows, meeting.dealt), iter(results)
    return [part for winner in match.winners for part in _meet_winner(winner, parts, numbering)]


def _meet_winner(winner: Winner, parts: Iterator[jax.Array], numbering: Numbering) -> list[jax.Array]:
    values = next(parts)
    if not winner.keeping.rows:
        return [best_of_shards(values, numbering.axes)]
    ids, flat = next(parts), (-1, winner.k)
    best, where = meet_winners(values.reshape(flat), ids.reshape(flat), numbering)
    return [best.reshape(values.shape), where.reshape(ids.shape)]


def _together(
    match: HeadMatch, plan: SitePlan, layout: SiteLayout, local: Localizer, target: Target
) -> Replacement | None:
    """A tail runs on all shards at once, as the author's code does."""
    if match.tail_of(plan.logprobs) is None or not plan.certify or plan.winners_only:
        return None
    return replace_tail(match, plan, target, _local(match, local), layout)


HEAD_ON_MESH = OnMesh(_rows, _divides, _local, _meet, numbered=True, together=_together)
