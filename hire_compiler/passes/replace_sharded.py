"""Replace a site on every shard by itself (DaT-Top-k): the unsharded replacement at a shard's size, in a shard_map.

The match is restated in one device's sizes, replaced as any site is, and what comes out is wrapped: *prepare* builds
each shard's arrays from its own rows (no device ever holds more than it did), *step* runs on every shard, and the
answers meet as ``runtime/collectives.py`` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from hire_compiler.calibration import Calibration
from hire_compiler.graph import Op, Value
from hire_compiler.passes.detect import Match
from hire_compiler.passes.replace import replace_site
from hire_compiler.passes.replacement import Preparation, Replacement, Spread, site_hotness
from hire_compiler.passes.shards import Placement, batch_dimension, local_matrix
from hire_compiler.passes.shards import result_batch_dims as batch_dims
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.canonical import Region
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.patterns.logits import HeadMatch, Winner
from hire_compiler.patterns.provenance import Origin
from hire_compiler.runtime.collectives import (
    NUMBERS,
    Numbering,
    best_of_shards,
    meet_measured,
    meet_winners,
    sum_shards,
)
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import Target
from hire_compiler.sharding import Axes, Dealing, MeshShape, SiteLayout, Spec, deal
from hire_compiler.weights import Step, Weight


def replace_sharded(
    match: Match,
    plan: SitePlan,
    layout: SiteLayout,
    placement: Placement,
    calibration: Calibration | None,
    target: Target,
) -> Replacement:
    """The replacement of a site whose shards work by themselves; ``plan`` is that of one shard."""
    dealing = _dealing(match, plan, layout, calibration) if plan.spread else None
    local = _LocalMatch(layout, placement, dealing)
    shard = replace_site(local.match(match), plan, calibration, target, local=True)
    preparation = _sharded_preparation(shard.preparation, layout, None if isinstance(match, FfnMatch) else dealing)
    inputs = [local.spec(value) for value in shard.values]
    outputs = [local.spec(value) for value in shard.results]
    if shard.measure:
        outputs.append(())

    def step(prepared: Arrays, views: tuple[jax.Array, ...], *values: jax.Array) -> list[jax.Array]:
        names = sorted(prepared)
        spread = preparation.spread
        assert spread is not None

        def run(*given: jax.Array) -> list[jax.Array]:
            arrays, rest = dict(zip(names, given[: len(names)])), given[len(names) :]
            results = shard.step(arrays, rest[: len(views)], *rest[len(views) :])
            return _meet(match, results, layout, plan, shard.measure, arrays.get(NUMBERS))

        specs = [spread.spec(name) for name in names]
        specs += [layout.argument(position) for position in shard.views]
        return over_mesh(run, layout.mesh, [*specs, *inputs], outputs)(
            *(prepared[name] for name in names), *views, *values
        )

    return replace(
        shard,
        preparation=preparation,
        values=tuple(local.whole(value) for value in shard.values),
        results=tuple(local.whole(value) for value in shard.results),
        before=local.whole_op(shard.before),
        step=step,
        signature=repr((shard.signature, layout)),
    )


def _dealing(match: Match, plan: SitePlan, layout: SiteLayout, calibration: Calibration | None) -> Dealing:
    """Who gets which rows: the hot ones are spread as far as the calibration knows them."""
    rows = plan.site.width * layout.shards
    hotness = site_hotness(match, calibration, plan.group)
    return deal(np.zeros(rows // plan.group) if hotness is None else hotness, layout.shards, plan.group)


def _sharded_preparation(shard: Preparation, layout: SiteLayout, numbered: Dealing | None) -> Preparation:
    """Every shard's arrays, one after the other along their first dimension; and the numbers of its rows, if dealt."""

    def build(*arrays: jax.Array) -> Arrays:
        def one(*parts: jax.Array) -> Arrays:
            built = dict(shard.build(*parts))
            if numbered is not None:
                built[NUMBERS] = jnp.asarray(numbered.numbers)[jax.lax.axis_index(layout.rows)]
            assert all(array.ndim for array in built.values()), "a prepared number cannot differ between shards"
            return built

        specs = [layout.argument(position) for position in shard.arguments]
        return over_mesh(one, layout.mesh, specs, (layout.rows,))(*arrays)

    bits = tuple((name, layout.argument(position)) for name, position in shard.bits)
    return replace(shard, build=build, key=f"{shard.key}|{layout}", spread=Spread(layout.mesh, layout.rows, bits))


def _meet(
    match: Match,
    results: list[jax.Array],
    layout: SiteLayout,
    plan: SitePlan,
    measure: str,
    dealt: jax.Array | None,
) -> list[jax.Array]:
    """The shards' results made one."""
    own, count = (results[:-1], results[-1]) if measure else (results, None)
    if isinstance(match, FfnMatch):
        own = [sum_shards(y, layout.rows) for y in own]
    elif match.winners:
        numbering, parts = Numbering(plan.site.width, layout.rows, dealt), iter(own)
        own = [part for winner in match.winners for part in _meet_winner(winner, parts, numbering)]
    held = [] if count is None else [meet_measured(measure, count, layout.rows, layout.batch)]
    return [*own, *held]


def _meet_winner(winner: Winner, parts: Iterator[jax.Array], numbering: Numbering) -> list[jax.Array]:
    values = next(parts)
    if winner.kind == "max":
        return [best_of_shards(values, numbering.axes)]
    ids, flat = next(parts), (-1, winner.k)
    best, where = meet_winners(values.reshape(flat), ids.reshape(flat), numbering)
    return [best.reshape(values.shape), where.reshape(ids.shape)]


def over_mesh(function: Any, mesh: MeshShape, inputs: Sequence[Spec], outputs: Any) -> Any:
    """``jax.shard_map`` over every axis of a mesh that is known by its shape alone."""
    names, sizes = zip(*mesh.axes, strict=True)
    abstract = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
    out_specs = [_partition(spec) for spec in outputs] if isinstance(outputs, list) else _partition(outputs)
    # Replicated results are so by construction; JAX's own check knows nothing of branches chosen by a local proof.
    mapped = jax.shard_map(
        function, mesh=abstract, in_specs=tuple(map(_partition, inputs)), out_specs=out_specs, check_vma=False
    )

    def call(*values: jax.Array) -> Any:
        with jax.sharding.use_abstract_mesh(abstract):  # the caller may have set a mesh with axes of another type
            return mapped(*values)

    return call


def _partition(spec: Spec) -> PartitionSpec:
    return PartitionSpec(*(axes or None for axes in spec))


class _LocalMatch:
    """Restates a match in the sizes of one device, and remembers which value stands for which."""

    def __init__(self, layout: SiteLayout, placement: Placement, dealing: Dealing | None) -> None:
        self._layout = layout
        self._dealing = dealing
        self._placement = placement
        self._values: dict[int, tuple[Value, Spec]] = {}
        self._ops: dict[int, Op] = {}
        self._kept: list[object] = []  # so that no id is used twice

    def match(self, match: Match) -> Match:
        """The match, as one device sees it."""
        return self._ffn(match) if isinstance(match, FfnMatch) else self._head(match)

    def whole(self, value: Value) -> Value:
        """The value of the graph behind a local one."""
        known = self._values.get(id(value))
        return known[0] if known else value

    def spec(self, value: Value) -> Spec:
        """How the value of the graph behind a local one is split."""
        known = self._values.get(id(value))
        return known[1] if known else ((),) * len(value.shape)

    def whole_op(self, op: Op) -> Op:
        """The operation of the graph behind a local one."""
        return self._ops.get(id(op), op)

    def _ffn(self, match: FfnMatch) -> FfnMatch:
        x = self._value(match.x, match.products[0].x_free)
        down = match.down
        local_down = replace(
            down,
            op=self._op(down.op, [self._value(down.result, batch_dims(down))]),
            x=self._value(down.x, down.x_free),
            columns=self._matrix(down.columns),
        )
        return replace(
            match,
            down=local_down,
            products=tuple(replace(dot, x=x) for dot in match.products),
            matrices=tuple(self._matrix(weight) for weight in match.matrices),
            biases=tuple(self._vector(origin, index) for origin, index in match.biases),
        )

    def _head(self, match: HeadMatch) -> HeadMatch:
        dot = match.dot
        row_dim = batch_dimension(dot.row_shape, range(len(dot.row_shape))) or 0
        place = row_dim if dot.rows_first else row_dim + len(dot.batch_shape)
        row_shape = list(dot.row_shape)
        row_shape[row_dim] //= self._layout.shards
        local_dot = replace(
            dot,
            op=self._op(dot.op, [self._value(dot.result, batch_dims(dot), rows_at=place)]),
            x=self._value(dot.x, dot.x_free),
            weight=self._matrix(dot.weight),
            columns=self._layout.local(dot.columns, self._placement.source(dot.columns))[0],
            row_shape=tuple(row_shape),
        )
        regions: dict[int, Region] = {}
        winners = tuple(self._winner(winner, regions) for winner in match.winners)
        return replace(
            match,
            dot=local_dot,
            logits=local_dot.result,
            rows=winners[0].region.batch_rows if winners else np.arange(local_dot.batch),
            winners=winners,
            compared=tuple(self._region(region, regions) for region in match.compared),
        )

    def _winner(self, winner: Winner, regions: dict[int, Region]) -> Winner:
        results = [self._value(value, range(len(value.shape))) for value in winner.op.results]
        last = 0 if winner.noise is None else len(winner.noise.shape) - 1
        return replace(
            winner,
            op=self._op(winner.op, results),
            region=self._region(winner.region, regions),
            noise=None if winner.noise is None else self._value(winner.noise, range(last), rows_at=last),
        )

    def _region(self, region: Region, regions: dict[int, Region]) -> Region:
        known = regions.get(id(region))
        if known is None:
            batch = len(region.batch_rows) // self._layout.mesh.size(self._layout.batch)
            rows = np.arange(batch) if self._layout.batch else region.batch_rows
            vectors = tuple(self._vector(origin, index) for origin, index in region.parameters)
            known = regions[id(region)] = replace(region, batch_rows=rows, parameters=vectors)
        return known

    def _matrix(self, weight: Weight) -> Weight:
        return self._dealt(local_matrix(weight, self._placement.source(weight), self._layout), 0)

    def _dealt(self, weight: Weight, axis: int) -> Weight:
        if self._dealing is None:
            return weight
        return weight.then(Step("deal", (axis, self._dealing, *self._layout.rows)), weight.shape)

    def _vector(self, origin: Origin, index: np.ndarray) -> tuple[Origin, np.ndarray]:
        local, _ = self._layout.local(origin.weight, self._placement.source(origin.weight))
        outer = batch_dimension(local.shape, range(len(local.shape))) or 0
        return replace(origin, weight=self._dealt(local, outer)), index[: local.size] if self._layout.rows else index

    def _value(self, value: Value, batch: Sequence[int], rows_at: int | None = None) -> Value:
        spec: list[Axes] = [()] * len(value.shape)
        dim = batch_dimension(value.shape, batch)
        if dim is not None:
            spec[dim] = self._layout.batch
        if rows_at is not None:
            spec[rows_at] = self._layout.rows
        mesh = self._layout.mesh
        shape = tuple(n // mesh.size(axes) for n, axes in zip(value.shape, spec, strict=True))
        local = replace(value, shape=shape)
        self._kept.append(local)
        self._values[id(local)] = (value, tuple(spec))
        return local

    def _op(self, op: Op, results: Sequence[Value]) -> Op:
        local = replace(op, results=tuple(results))
        self._kept.append(local)
        self._ops[id(local)] = op
        return local
