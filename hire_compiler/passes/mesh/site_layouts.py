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
from hire_compiler.capture.program import Argument
from hire_compiler.errors import HireError
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.kinds.local_match import batch_dimension, result_batch_dims
from hire_compiler.passes.plan.site_plan import LeftDense
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.sharding.layout import Axes, MeshShape, NotLocal, SiteLayout, Spec, localize


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

    def layouts(self, module: Any, matches: Sequence[SiteMatch]) -> list[SiteLayout | LeftDense]:
        """For every site its layout, or the reason why its shards cannot work by themselves."""
        if self.mesh is None:
            return [LeftDense(f"the program is spread over several devices, but {self.refusal}")] * len(matches)
        products = [match.products[0] for match in matches]
        shardings = _mlir.propagated_shardings(module, [dot.op.ir for dot in products])
        return [self._layout(match, dot, spec) for match, dot, spec in zip(matches, products, shardings, strict=True)]

    def argument(self, index: int) -> Spec:
        """The axes that split each dimension of an argument."""
        return self._specs[index] or ((),) * len(self._arguments[index].shape)

    def source(self, weight: Weight) -> tuple[int, ...]:
        """Shape of the argument behind a weight."""
        return self._arguments[weight.argument].shape

    def _layout(self, match: SiteMatch, dot: WeightDot, spec: Spec | None) -> SiteLayout | LeftDense:
        assert self.mesh is not None
        used = sorted({w.argument for w in (*match.weights, *(origin.weight for origin, _ in match.vectors))})
        specs = tuple((i, self.argument(i)) for i in used)
        plain = SiteLayout(self.mesh, (), (), False, specs)
        try:
            if any(weight.is_computed for weight in match.weights):
                raise NotLocal(
                    "its weights are computed from numbers and scales, which is not followed over devices yet"
                )
            rows, turned = kind_of(match).on_mesh.rows(match, plain, self.source)
            specs = tuple((dict(specs) | self._vector_specs(match, plain, rows)).items())
        except NotLocal as no:
            return LeftDense(str(no))
        batch = tuple(axis for axis in _batch_axes(dot, spec) if axis not in rows)
        parts = self.mesh.size(batch)
        if parts > 1 and not kind_of(match).on_mesh.divides(match, parts):
            batch = ()
        return SiteLayout(self.mesh, rows, batch, turned, specs)

    def _vector_specs(self, match: SiteMatch, plain: SiteLayout, rows: Axes) -> dict[int, Spec]:
        """How the vectors of a site are to be split: as its rows are, also where every device holds them whole."""
        return {
            origin.weight.argument: self._vector_spec(origin.weight, index, plain, rows)
            for origin, index in match.vectors
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


def _batch_axes(dot: WeightDot, spec: Spec | None) -> Axes:
    dim = batch_dimension(dot.result.shape, result_batch_dims(dot))
    return () if spec is None or dim is None else spec[dim]
