"""Read the code of one expert out of the code of all: against the flow, from where the experts are summed.

::

    h = act(einsum('bd,edf->bef', x, up))        one expert: h_e = act(x · up_e)
    y = einsum('bef,efd->bed', h, down)                      y_e = h_e · down_e
    einsum('bed,be->bd', y, weights)                         weights[:, e] · y_e

The axis that counts the experts is followed through every operation on the way. What has no such axis is shared by
all and captured as it is; what has one, but no product with a weight of the experts behind it (a router's weights, a
bias), is captured and cut. An operation along that axis (a norm over experts) ends the way: what stands behind it is
captured too, so that nothing is computed otherwise than its author did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from hire_compiler import _mlir
from hire_compiler.graph.expert_code import ExpertCode, Piece, Reading
from hire_compiler.graph.expression import BITWISE, OPERATIONS
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.storage import Entangled
from hire_compiler.graph.weight import Weight
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.operations.reducers import reducer
from hire_compiler.patterns.region.dots import SUPPORTED, WeightDot, is_precise, product_with
from hire_compiler.patterns.region.region import detail
from hire_compiler.patterns.weights.provenance import Provenance

_ELEMENTWISE = (OPERATIONS | BITWISE) - {"constant"}
_SPREADS = ("broadcast_in_dim", "reshape", "transpose")  # a value behind these is captured before them: it is smaller
_DEPTH = 200  # operations between the sum of the experts and what is captured


@dataclass(frozen=True, eq=False)
class Kernel:
    """A product with a weight of the experts.

    Attributes:
      dot: with the rows of all experts.
      weight: of one expert after the other: ``[experts · contracted, free]``, or ``[experts · free, contracted]``.
      by_rows: the latter.
      rows: of it, of one expert; 0 where that cannot be read expert by expert (:attr:`why`).
      why: why not.
    """

    dot: WeightDot
    weight: Weight
    by_rows: bool
    rows: int
    why: str = ""

    @property
    def inputs(self) -> int:
        """Numbers that each output of one expert sums."""
        return self.weight.shape[1] if self.by_rows else self.rows

    @property
    def outputs(self) -> int:
        """Numbers that one expert makes of each row."""
        return self.rows if self.by_rows else self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class ExpertRegion:
    """What stands between the values that experts read and their sum.

    Attributes:
      captured: values of the author's program that the code takes.
      inside: the operations that the code restates, the sum too.
    """

    code: ExpertCode
    captured: tuple[Value, ...]
    kernels: tuple[Kernel, ...]
    inside: frozenset[Op]


@dataclass(eq=False)
class _Node:
    """A piece whose arguments have no numbers yet; ``works`` if a product with a weight of experts is behind it."""

    op: str
    args: tuple[_Node, ...]
    shape: tuple[int, ...]
    dtype: str
    detail: tuple[Any, ...] = ()
    source: Op | None = None
    value: Value | None = None
    axis: int | None = None
    kernel: Kernel | None = None
    works: bool = False


def read_experts(total: Op, axes: tuple[int, ...], provenance: Provenance) -> ExpertRegion:
    """The code of one expert.

    Args:
      total: the operation that sums over experts: a ``reduce`` or a ``dot_general``.
      axes: of each of its operands that is an array, the axis that counts the experts.

    Raises:
      NoMatch: there is no such code.
    """
    reader = _Reader(total.operands[0].shape[axes[0]], provenance)
    if total.name == "reduce":
        inner = reader.sliced(total.operands[0], axes[0], 0)
        last = _Node("reduce_add", (inner,), total.result.shape, total.result.dtype, total.ints("dimensions"), total)
    else:
        left, right = axes
        found = reader.product(total, left, right, None, 0)
        if found is None:
            raise NoMatch("what sums its experts is not followed", depth=3)
        last = found
    last.dtype = "float32"  # one expert after the other is added to a sum that is rounded once
    return _region(last, reader.experts)


class _Reader:
    """Restates values for one expert, each of them once."""

    def __init__(self, experts: int, provenance: Provenance) -> None:
        self.experts = experts
        self._provenance = provenance
        self._known: dict[tuple[int, int | None], _Node] = {}

    def sliced(self, value: Value, axis: int | None, depth: int) -> _Node:
        """One expert's part of a value."""
        key = (id(value), axis)
        if key not in self._known:
            self._known[key] = self._captured(value, None) if axis is None else self._made(value, axis, depth)
        return self._known[key]

    def _made(self, value: Value, axis: int, depth: int) -> _Node:
        op = value.op
        if op is None or depth > _DEPTH:
            return self._captured(value, axis)
        node = self._restated(op, axis, depth)
        if node is None or not (node.works or op.name in _SPREADS or node.op == "constant"):
            return self._captured(value, axis)
        return node

    def _captured(self, value: Value, axis: int | None) -> _Node:
        constant = _splat(value)
        if constant is not None:
            return _Node("constant", (), self._part(value, axis), value.dtype, (constant,))
        return _Node("captured", (), self._part(value, axis), value.dtype, value=value, axis=axis)

    def _part(self, value: Value, axis: int | None) -> tuple[int, ...]:
        return tuple(1 if i == axis else n for i, n in enumerate(value.shape))

    def _restated(self, op: Op, axis: int, depth: int) -> _Node | None:
        """An operation on one expert's part; None if it does not work on each expert alone."""
        if op.name == "dot_general":
            return self._dot(op, axis, depth)
        if op.name in _ELEMENTWISE and len(op.results) == 1:
            said = detail(op)
            plain = () if op.name == "convert" or said is None else (said,)
            axes = [axis if len(v.shape) == len(op.result.shape) else None for v in op.operands]
            return self._node(op, axis, op.name, plain, axes, depth)
        follow = getattr(self, f"_{op.name}", None) if op.name in _LAYOUTS else None
        return None if follow is None else follow(op, axis, depth)

    def _node(self, op: Op, axis: int, name: str, more: tuple[Any, ...], axes: list[int | None], depth: int) -> _Node:
        operands = op.operands[: len(axes)]
        args = tuple(self.sliced(v, own, depth + 1) for v, own in zip(operands, axes, strict=True))
        works = any(arg.works for arg in args)
        return _Node(name, args, self._part(op.result, axis), op.result.dtype, more, op, works=works)

    def _broadcast_in_dim(self, op: Op, axis: int, depth: int) -> _Node:
        dims = op.ints("broadcast_dimensions")
        own = dims.index(axis) if axis in dims and op.operands[0].shape[dims.index(axis)] == self.experts else None
        return self._node(op, axis, op.name, dims, [own], depth)

    def _transpose(self, op: Op, axis: int, depth: int) -> _Node:
        order = op.ints("permutation")
        return self._node(op, axis, op.name, order, [order[axis]], depth)

    def _reshape(self, op: Op, axis: int, depth: int) -> _Node | None:
        own = moved_axis(op.result.shape, op.operands[0].shape, axis)
        return None if own is None else self._node(op, axis, op.name, (), [own], depth)

    def _slice(self, op: Op, axis: int, depth: int) -> _Node | None:
        if op.operands[0].shape[axis] != self.experts:
            return None
        bounds = [list(op.ints(name)) for name in ("start_indices", "limit_indices", "strides")]
        bounds[1][axis] = 1
        return self._node(op, axis, op.name, tuple(map(tuple, bounds)), [axis], depth)

    def _concatenate(self, op: Op, axis: int, depth: int) -> _Node | None:
        along = op.int("dimension")
        if along == axis:
            return None
        return self._node(op, axis, op.name, (along,), [axis] * len(op.operands), depth)

    def _reduce(self, op: Op, axis: int, depth: int) -> _Node | None:
        how, dims = reducer(op), op.ints("dimensions")
        if how not in ("add", "maximum", "minimum"):
            return None
        kept = [i for i in range(len(op.operands[0].shape)) if i not in dims]
        return self._node(op, axis, f"reduce_{how}", dims, [kept[axis]], depth)

    def _dot(self, op: Op, axis: int, depth: int) -> _Node | None:
        lb, rb, lc, rc = _mlir.dot_dimensions(op.ir)
        left = [i for i in range(len(op.operands[0].shape)) if i not in (*lb, *lc)]
        right = [i for i in range(len(op.operands[1].shape)) if i not in (*rb, *rc)]
        if axis < len(lb):
            return self.product(op, lb[axis], rb[axis], axis, depth)
        if axis < len(lb) + len(left):
            return self.product(op, left[axis - len(lb)], None, axis, depth)
        return self.product(op, None, right[axis - len(lb) - len(left)], axis, depth)

    def product(self, op: Op, left: int | None, right: int | None, axis: int | None, depth: int) -> _Node | None:
        """A product on one expert's part of its operands.

        Args:
          left, right: the axis of each operand that counts the experts, None if all share it.
          axis: that of the result; None where the experts are summed.
        """
        kernel = self._kernel(op, left, right, depth)
        if kernel is not None:
            return kernel
        if op.result.dtype not in ("float32", "bfloat16", "float16"):
            return None
        lb, rb, lc, rc = _mlir.dot_dimensions(op.ir)
        more = (((lc, rc), (lb, rb)), is_precise(op))
        return self._node(op, -1 if axis is None else axis, op.name, more, [left, right], depth)

    def _kernel(self, op: Op, left: int | None, right: int | None, depth: int) -> _Node | None:
        for position, own, others in ((1, right, left), (0, left, right)):
            weight, x = op.operands[position], op.operands[1 - position]
            if own is None or len(weight.shape) < 3 or not self._provenance.is_factor(op, position):
                continue
            if others is not None and self._provenance.is_factor(op, 1 - position):
                continue
            return self._read_kernel(op, position, own, x, others, depth)
        return None

    def _read_kernel(self, op: Op, position: int, own: int, x: Value, others: int | None, depth: int) -> _Node | None:
        dims = _mlir.dot_dimensions(op.ir)
        batch, contracted = (dims[0], dims[2]) if position == 0 else (dims[1], dims[3])
        x_contracted = dims[3] if position == 0 else dims[2]
        if any(i != own for i in batch):
            return None
        origin = self._provenance.factor(op, position)
        pairs = sorted((w, i) for w, i in zip(contracted, x_contracted, strict=True) if w != own)
        inner = tuple(w for w, _ in pairs)
        free = tuple(i for i in range(len(origin.weight.shape)) if i not in (*inner, own))
        x_inner = tuple(i for _, i in pairs)
        x_free = tuple(i for i in range(len(x.shape)) if i not in x_inner)
        dot = product_with(op, origin, rows_first=position == 0)
        batch_rows = prod(x.shape[i] for i in x_free if i != others)
        reading = Reading(0, (*x_free, *x_inner), batch_rows, position == 0)
        shape = self._result_part(op, own, others, position)
        arg = self.sliced(x, others, depth + 1)
        kernel = _kernel(dot, origin.weight, own, inner, free)
        return _Node("kernel", (arg,), shape, op.result.dtype, (reading,), op, kernel=kernel, works=True)

    def _result_part(self, op: Op, own: int, others: int | None, position: int) -> tuple[int, ...]:
        """The shape of a product's result for one expert."""
        lb, rb, lc, rc = _mlir.dot_dimensions(op.ir)
        left_axis, right_axis = (own, others) if position == 0 else (others, own)
        left = [1 if i == left_axis else n for i, n in enumerate(op.operands[0].shape) if i not in (*lb, *lc)]
        right = [1 if i == right_axis else n for i, n in enumerate(op.operands[1].shape) if i not in (*rb, *rc)]
        return (*(1 for _ in lb), *left, *right)


_LAYOUTS = frozenset({"broadcast_in_dim", "transpose", "reshape", "slice", "concatenate", "reduce"})


def moved_axis(shape: tuple[int, ...], other: tuple[int, ...], axis: int) -> int | None:
    """Where a reshape from ``shape`` to ``other`` puts an axis; None if it does not keep it."""
    before = prod(shape[:axis])
    return next((i for i, n in enumerate(other) if prod(other[:i]) == before and n == shape[axis]), None)


def _kernel(dot: WeightDot, weight: Weight, own: int, inner: tuple[int, ...], free: tuple[int, ...]) -> Kernel:
    """A product, and its weight with one expert after the other, as it lies if that is possible."""
    if dot.result.dtype not in SUPPORTED:
        products = f"such products ({weight.stored}, summed in {dot.result.dtype})"
        why = f"their inputs are quantised, too: {products} are not skipped yet"
        return Kernel(dot, weight, False, 0, why)
    try:
        columns, rows = weight.as_matrix((own, *inner), free), weight.as_matrix((own, *free), inner)
    except Entangled as mixed:
        return Kernel(dot, weight, False, 0, f"{mixed} mixes numbers and scales of different experts")
    by_rows = rows.is_view and not columns.is_view
    laid = rows if by_rows else columns
    return Kernel(dot, laid, by_rows, laid.shape[0] // weight.shape[own])


def _splat(value: Value) -> float | bool | None:
    constant = value.op.constant() if value.op is not None else None
    if constant is None or constant.size == 0 or not (constant == constant.ravel()[0]).all():
        return None
    first = constant.ravel()[0]
    return bool(first) if value.dtype == "bool" else float(first)


def _region(last: _Node, experts: int) -> ExpertRegion:
    """Nodes in order, with numbers."""
    order = list(dict.fromkeys(_below(last)))
    numbers = {id(node): i for i, node in enumerate(order)}
    captured = [node for node in order if node.op == "captured"]
    kernels = [node for node in order if node.kernel is not None]
    pieces = []
    for node in order:
        more = node.detail
        if node.op == "captured":
            more = (captured.index(node), node.axis)
        elif node.kernel is not None:
            reading: Reading = node.detail[0]
            more = (Reading(kernels.index(node), reading.order, reading.batch, reading.weight_first),)
        pieces.append(Piece(node.op, tuple(numbers[id(arg)] for arg in node.args), node.shape, node.dtype, more))
    return ExpertRegion(
        ExpertCode(tuple(pieces), tuple(node.axis for node in captured), experts),
        tuple(node.value for node in captured if node.value is not None),
        tuple(node.kernel for node in kernels if node.kernel is not None),
        frozenset(node.source for node in order if node.source is not None and (node.works or node is last)),
    )


def _below(last: _Node) -> Iterator[_Node]:
    """Every node that a node needs, and then itself."""
    stack: list[tuple[_Node, bool]] = [(last, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
            continue
        stack.append((node, True))
        stack += [(arg, False) for arg in reversed(node.args)]
