"""Read from the module's own shardings how each site lies on the mesh.

Weights: the sharding of the argument, followed through the layout steps to the rows that the site reads. Inputs: what
Shardy's propagation says about the products. A site whose shards can work by themselves gets a ``SiteLayout``; any
other gets the reason why not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from hire_compiler import _mlir
from hire_compiler.errors import HireError
from hire_compiler.passes.detect import Match
from hire_compiler.patterns.dots import WeightDot
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.patterns.logits import HeadMatch, grouped
from hire_compiler.patterns.provenance import Origin
from hire_compiler.program import Argument
from hire_compiler.sharding import Axes, MeshShape, NotLocal, SiteLayout, Spec, localize
from hire_compiler.weights import Step, Weight


class Placement:
    """Where a program's arguments and values lie: read once a module."""

    def __init__(self, module: Any, arguments: Sequence[Argument]) -> None:
        self._arguments = arguments
        self.refusal = ""
        self.mesh: MeshShape | None = None
        self._specs: list[Spec | None] = [None] * len(arguments)
        found = {mesh for mesh in _mlir.meshes(module).values() if prod(n for _, n in mesh) > 1}
        try:
            self._specs = list(_mlir.argument_shardings(module))
        except HireError as error:
            self.refusal = str(error)
        if len(found) == 1 and not self.refusal:
            self.mesh = MeshShape(next(iter(found)))
        elif not self.refusal:
            self.refusal = "it names no mesh" if not found else "it uses several meshes"

    def layouts(self, module: Any, matches: Sequence[Match]) -> list[SiteLayout | str]:
        """For every site its layout, or the reason why its shards cannot work by themselves."""
        if self.mesh is None:
            return [f"the program is spread over several devices, but {self.refusal}"] * len(matches)
        products = [_first_product(match) for match in matches]
        shardings = _mlir.propagated_shardings(module, [dot.op.ir for dot in products])
        return [self._layout(match, dot, spec) for match, dot, spec in zip(matches, products, shardings, strict=True)]

    def argument(self, index: int) -> Spec:
        """The axes that split each dimension of an argument."""
        return self._specs[index] or ((),) * len(self._arguments[index].shape)

    def source(self, weight: Weight) -> tuple[int, ...]:
        """Shape of the argument behind a weight."""
        return self._arguments[weight.argument].shape

    def _layout(self, match: Match, dot: WeightDot, spec: Spec | None) -> SiteLayout | str:
        assert self.mesh is not None
        used = sorted({weight.argument for weight in _all_weights(match)})
        specs = tuple((i, self.argument(i)) for i in used)
        plain = SiteLayout(self.mesh, (), (), False, specs)
        try:
            self._check_tail(match)
            rows, turned = self._rows(match, plain)
            specs = tuple((dict(specs) | self._vector_specs(match, plain, rows)).items())
        except NotLocal as no:
            return str(no)
        batch = tuple(axis for axis in _batch_axes(dot, spec) if axis not in rows)
        if not _batch_divides(match, self.mesh.size(batch)):
            batch = ()
        return SiteLayout(self.mesh, rows, batch, turned, specs)

    def _rows(self, match: Match, plain: SiteLayout) -> tuple[Axes, bool]:
        if isinstance(match, FfnMatch):
            return self._ffn_rows(match, plain), False
        _, (rows, columns) = plain.local(match.dot.weight, self.source(match.dot.weight))
        if not columns:
            return rows, False
        if rows:
            raise NotLocal("its weight is split over rows and columns, so every device has to gather part of it")
        if match.dot.rows % plain.mesh.size(columns):
            raise NotLocal(f"its {match.dot.rows} rows do not divide over {plain.mesh.size(columns)} devices")
        return columns, True

    def _ffn_rows(self, match: FfnMatch, plain: SiteLayout) -> Axes:
        splits = {plain.local(w, self.source(w))[1] for w in (*match.matrices, match.down.columns)}
        if any(columns for _, columns in splits):
            raise NotLocal(
                "its weights are split over the model's width (FSDP?), so every device has to gather them, as the "
                "program does"
            )
        if match.givens:
            raise NotLocal("an adapter adds to its products, which is not followed over devices yet")
        if len(splits) > 1:
            raise NotLocal("its matrices are split differently, so no device holds all parts of a neuron")
        ((rows, _),) = splits
        if rows and match.activation.selection:
            raise NotLocal(
                f"the model chooses neurons itself ({match.activation.selection}) among those of all devices"
            )
        if rows and match.region.expression.rowwise:
            raise NotLocal("its activation compares the neurons of all devices")
        return rows

    @staticmethod
    def _check_tail(match: Match) -> None:
        """Refuse tails that a shard cannot repeat by itself."""
        if not isinstance(match, HeadMatch) or not match.winners:
            return
        first = match.winners[0]
        if len(grouped(match.winners)) > 1:
            raise NotLocal("several winners of different values are read")
        if first.region.captured:
            raise NotLocal(
                "values of the request (a mask, a penalty, a temperature) stand between its logits and the winner"
            )
        if first.width != match.dot.rows:
            raise NotLocal("its vocabulary is padded, and the padding is cut off after the product")

    def _vector_specs(self, match: Match, plain: SiteLayout, rows: Axes) -> dict[int, Spec]:
        """How the vectors of a site are to be split: as its rows are, also where every device holds them whole."""
        return {
            origin.weight.argument: self._vector_spec(origin.weight, index, plain, rows)
            for origin, index in _vectors(match)
        }

    def _vector_spec(self, vector: Weight, index: np.ndarray, plain: SiteLayout, rows: Axes) -> Spec:
        source, known = self.source(vector), plain.argument(vector.argument)
        if not rows:
            return ((),) * len(source)
        if not np.array_equal(index, np.arange(len(index))) or vector.size != len(index):
            raise NotLocal(f"{vector.name} is not laid out as its rows are")
        outer = batch_dimension(vector.shape, range(len(vector.shape)))
        wanted = tuple(rows if i == outer else () for i in range(len(vector.shape)))
        choices = (
            [known]
            if any(known)
            else [tuple(rows if i == dim else () for i in range(len(source))) for dim in range(len(source))]
        )
        for spec in choices:
            try:
                if localize(vector, source, spec, plain.mesh)[1] == wanted:
                    return spec
            except NotLocal:
                continue
        raise NotLocal(f"{vector.name} is split otherwise than its rows")


def local_matrix(weight: Weight, source: tuple[int, ...], layout: SiteLayout) -> Weight:
    """A matrix of the site, ``[rows, d]``, as one device reads it."""
    local, _ = layout.local(weight, source)
    if not layout.turned:
        return local
    rows, columns = local.shape
    return local.then(Step("turn", layout.rows), (rows // layout.shards, columns * layout.shards))


def _first_product(match: Match) -> WeightDot:
    return match.products[0] if isinstance(match, FfnMatch) else match.dot


def _all_weights(match: Match) -> list[Weight]:
    own = [*match.matrices, match.down.columns] if isinstance(match, FfnMatch) else [match.dot.weight]
    return [*own, *(origin.weight for origin, _ in _vectors(match))]


def _vectors(match: Match) -> list[tuple[Origin, np.ndarray]]:
    if isinstance(match, FfnMatch):
        return list(match.biases)
    regions = [winner.region for winner in match.winners] or list(match.compared)
    return [parameter for region in regions for parameter in region.parameters]


def batch_dimension(shape: Sequence[int], dims: Sequence[int]) -> int | None:
    """Which of some dimensions is the outermost that is longer than one."""
    return next((i for i in dims if shape[i] > 1), None)


def result_batch_dims(dot: WeightDot) -> range:
    """The dimensions of a product's result that belong to its input."""
    free, rows = len(dot.batch_shape), len(dot.row_shape)
    return range(rows, rows + free) if dot.rows_first else range(free)


def _batch_axes(dot: WeightDot, spec: Spec | None) -> Axes:
    dim = batch_dimension(dot.result.shape, result_batch_dims(dot))
    return () if spec is None or dim is None else spec[dim]


def _batch_divides(match: Match, parts: int) -> bool:
    """Whether every tensor at the border of a site can be cut into parts along its batch."""
    if parts == 1:
        return True
    dots = (*match.products, match.down) if isinstance(match, FfnMatch) else (match.dot,)
    if any(dot.batch % parts or (_outer(dot.batch_shape) % parts) for dot in dots):
        return False
    if isinstance(match, HeadMatch):
        straight = np.arange(match.dot.batch)
        return all(
            np.array_equal(winner.region.batch_rows, straight) and _outer(winner.op.results[0].shape) % parts == 0
            for winner in match.winners
        ) and all(np.array_equal(region.batch_rows, straight) for region in match.compared)
    return True


def _outer(shape: Sequence[int]) -> int:
    dim = batch_dimension(shape, range(len(shape)))
    return 1 if dim is None else shape[dim]
