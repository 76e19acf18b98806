"""A site on one device: what every kind answers of its shards, and the parts of a match in the sizes of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import jax
import numpy as np

from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Step, Weight
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.replacement import Replacement
from hire_compiler.patterns.region.canonical import Outside, Region
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.patterns.weights.provenance import Origin
from hire_compiler.runtime.target import Target
from hire_compiler.sharding.dealing import Dealing
from hire_compiler.sharding.layout import Axes, SiteLayout, Spec

M = TypeVar("M", bound=SiteMatch)
Source = Callable[[Weight], tuple[int, ...]]  # from a weight to the shape of the argument behind it


@dataclass(frozen=True)
class Meeting:
    """How the shards of a site meet.

    Attributes:
      plan: of one shard.
      dealt: the numbers of a shard's rows, where they are dealt out.
    """

    layout: SiteLayout
    plan: SitePlan
    dealt: jax.Array | None


@dataclass(frozen=True)
class OnMesh(Generic[M]):
    """What a kind of site answers of its shards.

    Attributes:
      rows: the axes that split its rows, and whether devices exchange rows for columns first. Takes the match, its
        layout without axes, and the way to an argument's shape; raises :class:`NotLocal` where a shard cannot work by
        itself.
      divides: whether every tensor at its border can be cut into so many parts along its batch.
      local: the match in the sizes of one device.
      meet: the shards' results made one.
      numbered: its results are numbers of rows, so that a shard has to know which rows were dealt to it.
      together: the replacement of a site whose shards do not work by themselves to the end; None for any other.
    """

    rows: Callable[[M, SiteLayout, Source], tuple[Axes, bool]]
    divides: Callable[[M, int], bool]
    local: Callable[[M, Localizer], M]
    meet: Callable[[M, list[jax.Array], Meeting], list[jax.Array]]
    numbered: bool
    together: Callable[[M, SitePlan, SiteLayout, Localizer, Target], Replacement | None] = lambda *_: None


class Localizer:
    """Restates the parts of a match in the sizes of one device, and remembers which value stands for which."""

    def __init__(self, layout: SiteLayout, source: Source, dealing: Dealing | None) -> None:
        self.layout = layout
        self._dealing = dealing
        self._source = source
        self._values: dict[int, tuple[Value, Spec]] = {}
        self._ops: dict[int, Op] = {}
        self._outside: list[tuple[Outside, Outside]] = []  # whole, local
        self._kept: list[object] = []  # so that no id is used twice

    def whole(self, value: Value) -> Value:
        """The value of the graph behind a local one."""
        known = self._values.get(id(value))
        return known[0] if known else value

    def spec(self, value: Value) -> Spec:
        """How the value of the graph behind a local one is split."""
        known = self._values.get(id(value))
        return known[1] if known else ((),) * len(value.shape)

    def full_shape(self, value: Value) -> tuple[int, ...]:
        """The shape that all devices' parts of a local value make up."""
        return tuple(n * self.layout.mesh.size(axes) for n, axes in zip(value.shape, self.spec(value), strict=True))

    def whole_op(self, op: Op) -> Op:
        """The operation of the graph behind a local one."""
        return self._ops.get(id(op), op)

    def region(self, region: Region, regions: dict[int, Region]) -> Region:
        """A region of a head, with the rows of one device."""
        known = regions.get(id(region))
        if known is None:
            batch = len(region.batch_rows) // self.layout.mesh.size(self.layout.batch)
            rows = np.arange(batch) if self.layout.batch else region.batch_rows
            vectors = tuple(self.vector(origin, index) for origin, index in region.parameters)
            captured = tuple(self.outside(entry, region.products[0].rows) for entry in region.captured)
            known = replace(region, batch_rows=rows, parameters=vectors, captured=captured)
            if self.layout.rows:  # which of a shard's rows are padding, only the run knows
                own = tuple((dot, np.arange(dot.rows // self.layout.shards)) for dot, _ in region.streams)
                known = replace(known, streams=own)
            regions[id(region)] = known
        return known

    def outside(self, entry: Outside, rows: int) -> Outside:
        """A captured value, laid out and cut as the logits are: ``[batch, rows]``, where 1 stands for any length.

        Args:
          rows: how many rows all shards have; where they are split, an entry of fewer is padded to them.
        """
        known = next((local for whole, local in self._outside if whole.same(entry)), None)
        if known is not None:
            return known
        batch, columns = entry.index.shape
        spec = (self.layout.batch if batch > 1 else (), self.layout.rows if columns > 1 else ())
        parts = [self.layout.mesh.size(axes) for axes in spec]
        shape = (batch // parts[0], (rows if spec[1] else columns) // parts[1])
        value = replace(entry.value, shape=shape)
        self._values[id(value)] = (entry.value, spec)
        local = Outside(value, np.arange(value.size).reshape(shape), entry.base)
        self._kept.append(value)
        self._outside.append((entry, local))
        return local

    def whole_outside(self, entry: Outside) -> Outside:
        """The captured value of the graph behind a local one."""
        return next((whole for whole, local in self._outside if local is entry), entry)

    def matrix(self, weight: Weight) -> Weight:
        """A matrix of the site, as one device reads it."""
        return self._dealt(local_matrix(weight, self._source(weight), self.layout), 0)

    def part(self, weight: Weight) -> Weight:
        """A device's part of a weight, as it lies."""
        return self.layout.local(weight, self._source(weight))[0]

    def _dealt(self, weight: Weight, axis: int) -> Weight:
        if self._dealing is None:
            return weight
        return weight.then(Step("deal", (axis, self._dealing, *self.layout.rows)), weight.shape)

    def vector(self, origin: Origin, index: np.ndarray) -> tuple[Origin, np.ndarray]:
        """A parameter with one entry a row, and the positions of these entries."""
        local, _ = self.layout.local(origin.weight, self._source(origin.weight))
        outer = batch_dimension(local.shape, range(len(local.shape))) or 0
        return replace(origin, weight=self._dealt(local, outer)), index[: local.size] if self.layout.rows else index

    def value(self, value: Value, batch: Sequence[int], rows_at: int | None = None, rows: int | None = None) -> Value:
        """A value of the graph.

        Args:
          batch: which dimensions may hold the batch.
          rows_at: which holds the rows.
          rows: how many there are with the padding that the value lacks; None for those that it has.
        """
        spec: list[Axes] = [()] * len(value.shape)
        dim = batch_dimension(value.shape, batch)
        if dim is not None:
            spec[dim] = self.layout.batch
        if rows_at is not None:
            spec[rows_at] = self.layout.rows
        mesh = self.layout.mesh
        sizes = [rows if rows is not None and i == rows_at else n for i, n in enumerate(value.shape)]
        shape = tuple(n // mesh.size(axes) for n, axes in zip(sizes, spec, strict=True))
        local = replace(value, shape=shape)
        self._kept.append(local)
        self._values[id(local)] = (value, tuple(spec))
        return local

    def op(self, op: Op, results: Sequence[Value]) -> Op:
        """An operation of the graph, with other results."""
        local = replace(op, results=tuple(results))
        self._kept.append(local)
        self._ops[id(local)] = op
        return local


def local_matrix(weight: Weight, source: tuple[int, ...], layout: SiteLayout) -> Weight:
    """A matrix of the site, ``[rows, d]``, as one device reads it."""
    local, _ = layout.local(weight, source)
    if not layout.turned:
        return local
    rows, columns = local.shape
    return local.then(Step("turn", layout.rows), (rows // layout.shards, columns * layout.shards))


def batch_dimension(shape: Sequence[int], dims: Sequence[int]) -> int | None:
    """Which of some dimensions is the outermost that is longer than one."""
    return next((i for i in dims if shape[i] > 1), None)


def result_batch_dims(dot: WeightDot) -> range:
    """The dimensions of a product's result that belong to its input."""
    free, rows = len(dot.batch_shape), len(dot.row_shape)
    return range(rows, rows + free) if dot.rows_first else range(free)


def outer_size(shape: Sequence[int]) -> int:
    """How long the outermost dimension is that is longer than one."""
    dim = batch_dimension(shape, range(len(shape)))
    return 1 if dim is None else shape[dim]
