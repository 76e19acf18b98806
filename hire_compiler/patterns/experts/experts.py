"""Match a layer of experts that computes all of them and uses those that its router chose.

::

    weights = …top_k…                            [b, e], zero for the experts that a row does not use
    h = act(einsum('bd,edf->bef', x, up))        every expert's block, gated or not, with biases or not
    y = einsum('bef,efd->bed', h, down)
    einsum('bed,be->bd', y, weights)             or a sum over e; or weights before down; or rows dispatched one-hot
    einsum('ebd,edf->bf', where(mine, x, 0), up) a ragged product, as it is lowered for a CPU: a layer by itself

Nothing is predicted: the program itself says which experts a call uses, and what the others add is proven to be zero.

Deliberately not matched: experts that are gathered, or take ragged groups of rows elsewhere (only those chosen are
read already), weights that are never exactly zero (a soft mixture), experts that something else reads too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Weight
from hire_compiler.patterns.experts.expert_reader import ExpertRegion, Kernel, moved_axis, read_experts
from hire_compiler.patterns.experts.routing import routed_experts, scored_by
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.loop_counters import LoopCounters
from hire_compiler.patterns.operations.match import EXPERTS, NoMatch
from hire_compiler.patterns.operations.reducers import reducer
from hire_compiler.patterns.region.dots import WeightDot, check_type
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.site_match import Vector, computed_type, trips
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.proofs.expert_zeros import adds_nothing
from hire_compiler.proofs.zeros import Known
from hire_compiler.reports.report import Site

_STEPS = 40  # operations between the last product and the sum over experts


@dataclass(frozen=True, eq=False)
class ExpertsMatch:
    """A layer of experts.

    Attributes:
      total: the operation that sums what the experts make.
      last: the last product with a weight.
      region: the code of one of them.
      routed: how many experts a row uses; 0 where the program does not say it.
    """

    kind: ClassVar[str] = "experts"
    vectors: ClassVar[tuple[Vector, ...]] = ()
    neuron_key: ClassVar[str] = ""
    winner_key: ClassVar[str] = ""

    total: Op
    last: Op
    region: ExpertRegion
    routed: int

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The products with weights of the experts."""
        return self.region.kernels

    @property
    def products(self) -> tuple[WeightDot, ...]:
        """The products but the last one; a single one is the last, too."""
        dots = tuple(kernel.dot for kernel in self.kernels)
        return tuple(dot for dot in dots if dot.op is not self.last) or dots

    @property
    def ranked(self) -> WeightDot:
        """The first product; nothing of it is ranked."""
        return self.products[0]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The weights of all experts, one expert after the other."""
        return tuple(kernel.weight for kernel in self.kernels)

    @property
    def _first(self) -> Kernel:
        return next(kernel for kernel in self.kernels if kernel.dot is self.ranked)

    @property
    def batch(self) -> int:
        """Rows that share one choice of experts: those of the result."""
        kernel = next(kernel for kernel in self.kernels if kernel.dot.op is self.last)
        return self.total.result.size // kernel.outputs

    @property
    def layer(self) -> Value | None:
        """Counter of the loop over layers, if the weights are stacked."""
        return self.ranked.layer

    def describe(self, site_id: str, counters: LoopCounters) -> Site:
        """Its line of the report."""
        first = self.ranked
        return Site(
            id=site_id,
            kind=self.kind,
            path=self.last.scope,
            activation=self.kind,
            gated=len(self.products) == 2,
            selection=f"choice of {self.routed}" if self.routed else "choice",
            batch=self.batch,
            d=self._first.inputs,
            width=self.region.code.experts,
            dtype=first.weight.stored,
            computed=computed_type(first.weight),
            repeat=trips(first, counters),
            weights=tuple(dict.fromkeys(kernel.dot.weight.name for kernel in self.kernels)),
        )


def match_experts(last: Op, provenance: Provenance, reader: RegionReader) -> ExpertsMatch:
    """Match the layer whose last product with a weight is ``last``.

    Raises:
      NoMatch: with the reason.
    """
    weight = next((v for i, v in enumerate(last.operands) if len(v.shape) > 2 and provenance.is_factor(last, i)), None)
    if weight is None:
        raise NoMatch("its weight is none of experts")
    check_type(last)
    no: NoMatch | None = None
    for total, axes in _sums(last, provenance):
        try:
            return _matched(last, total, axes, provenance)
        except NoMatch as found:
            no = found if no is None or found.depth > no.depth else no
    raise no or NoMatch("what its experts make is not summed over them")


def _matched(last: Op, total: Op, axes: tuple[int, ...], provenance: Provenance) -> ExpertsMatch:
    region = read_experts(total, axes, provenance)
    products = [kernel.dot.op for kernel in region.kernels]
    if last not in products:
        raise NoMatch("what sums it reads no part of its weight alone")
    experts, gates = region.code.experts, _gates(region)
    chosen = [count for gate in gates if (count := routed_experts(gate, experts, provenance)) is not None]
    if not chosen:
        raise _all_count(region, gates, provenance)
    why = _why_all_are_computed(region, total)
    if why:
        involved = tuple(op for op in products if op is not last)
        raise NoMatch(f"all of its {experts} experts are computed: {why}", depth=EXPERTS, involved=involved)
    return ExpertsMatch(total, last, region, chosen[0])


def _all_count(region: ExpertRegion, gates: list[Value], provenance: Provenance) -> NoMatch:
    """Why none of the experts can be left out: what weighs them is never known to be zero."""
    experts, products = region.code.experts, [kernel.dot.op for kernel in region.kernels]
    routers = [op for gate in gates if (op := scored_by(gate, provenance)) is not None]
    between = any(piece.op == "dot_general" for piece in region.code.pieces[:-1])  # heads of attention
    if len(products) > 1 and not between and any(_is_given(gate) for gate in gates):
        why = "what weighs them is an argument of the program, or of the shard_map around them"
        return NoMatch(f"all of its {experts} experts are computed: {why}", depth=EXPERTS, involved=tuple(products))
    if len(products) < 2 or not routers or between:
        return NoMatch(f"all of its {experts} experts count: no weight is known to make one zero", depth=1)
    why = f"a soft mixture of {experts} experts: none of their weights is known to be zero, so all of them count"
    return NoMatch(why, depth=EXPERTS, involved=(*products, *routers))


def _is_given(value: Value) -> bool:
    """Whether a value is an argument, in whatever layout and type."""
    while value.op is not None and (value.op.name in LAYOUT or value.op.name == "convert"):
        value = value.op.operands[0]
    return value.op is None


def _why_all_are_computed(region: ExpertRegion, total: Op) -> str:
    """Why experts that do not count cannot be left out, or ''."""
    whole = [kernel.why for kernel in region.kernels if kernel.why]
    if whole:
        return whole[0]
    if len({kernel.dot.layer for kernel in region.kernels}) > 1:
        return "their weights are picked by different loop counters"
    inner = region.inside - {total}
    read = any(reader not in region.inside for op in inner for result in op.results for reader, _ in result.uses)
    return "other code also reads what each of them makes" if read else ""


def _gates(region: ExpertRegion) -> list[Value]:
    """The captured values that make all that an expert adds zero where they are zero for it."""
    near = Known(np.asarray(False), np.asarray(-1.0), np.asarray(1.0))
    nothing = Known(np.asarray(True), np.asarray(0.0), np.asarray(0.0))
    axes, sizes = region.code.captured, [np.asarray(1.0)] * len(region.kernels)
    found = []
    for gate, axis in enumerate(axes):
        known = [nothing if i == gate else near for i in range(len(axes))]
        if axis is not None and bool(np.all(adds_nothing(region.code, known, sizes, np))):
            found.append(region.captured[gate])
    return found


# --------------------------------------------------------------------------- where the experts are summed


def _sums(last: Op, provenance: Provenance) -> Iterator[tuple[Op, tuple[int, ...]]]:
    """The operations that may sum over experts, and the axis of each operand that would count them."""
    lb, _, lc, rc = _mlir.dot_dimensions(last.ir)
    if len(lc) > 1:
        yield from ((last, axes) for axes in zip(lc, rc, strict=True))
    for axis in range(len(lb)):
        found = _summed(last.result, axis, provenance)
        if found is not None:
            yield found


def _summed(value: Value, axis: int, provenance: Provenance) -> tuple[Op, tuple[int, ...]] | None:
    """Where a value is summed along an axis, whatever is done with each of its parts before."""
    for _ in range(_STEPS):
        if len({id(op) for op, _ in value.uses}) != 1:
            return None
        op, position = value.uses[0]
        if len(op.results) != 1:
            return None
        if op.name == "reduce" and axis in op.ints("dimensions"):
            return (op, (axis,)) if reducer(op) == "add" else None
        if op.name == "dot_general":
            _, _, lc, rc = _mlir.dot_dimensions(op.ir)
            mine, other = (lc, rc) if position == 0 else (rc, lc)
            if axis in mine:
                axes = (axis, other[mine.index(axis)])
                return op, axes if position == 0 else axes[::-1]
            if provenance.is_factor(op, 1 - position):
                return None  # a later product of the same experts
        moved = _moved(op, position, axis)
        if moved is None:
            return None
        value, axis = op.result, moved
    return None


def _moved(op: Op, position: int, axis: int) -> int | None:
    """Where an operation puts an axis of one of its operands."""
    source, result = op.operands[position].shape, op.result.shape
    match op.name:
        case "transpose":
            return op.ints("permutation").index(axis)
        case "broadcast_in_dim":
            return op.ints("broadcast_dimensions")[axis]
        case "reshape":
            return moved_axis(source, result, axis)
        case "reduce":
            return axis - sum(i < axis for i in op.ints("dimensions"))
        case "dot_general":
            return _moved_by_product(op, position, axis)
    return axis if source == result else None


def _moved_by_product(op: Op, position: int, axis: int) -> int | None:
    lb, rb, lc, rc = _mlir.dot_dimensions(op.ir)
    batch, inner = (lb, lc) if position == 0 else (rb, rc)
    if axis in batch:
        return batch.index(axis)
    free = [i for i in range(len(op.operands[position].shape)) if i not in (*batch, *inner)]
    before = 0 if position == 0 else len(op.operands[0].shape) - len(lb) - len(lc)
    return len(batch) + before + free.index(axis) if axis in free else None
