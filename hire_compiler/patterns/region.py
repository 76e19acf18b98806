"""The elementwise region above a value: what was computed between two matrix products.

Authors write layouts in many ways (``[B,1,V]``, fused ``[2,ff]`` then slices, transposes). Instead of a pattern
for each, every tensor of the region carries two index arrays, *which weight row* and *which input row* each
of its elements belongs to, and a layout operation is simply applied to them by NumPy (views, not copies).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hire_compiler.expression import OPERATIONS, Expression, Instruction
from hire_compiler.graph import Op, Value
from hire_compiler.patterns.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.match import NoMatch
from hire_compiler.patterns.provenance import TRANSPARENT, Origin, Provenance


@dataclass(frozen=True, eq=False)
class Stream:
    """Elements of a weight dot's result, possibly sliced, reshaped or transposed."""

    dot: WeightDot
    rows: np.ndarray
    batch: np.ndarray


@dataclass(frozen=True, eq=False)
class Parameter:
    """Elements of a parameter vector broadcast over the batch: a bias, a scale."""

    origin: Origin
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Scalar:
    """One constant for all elements."""

    value: float | bool
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """An elementwise operation."""

    op: str
    args: tuple[Term, ...]
    dtype: str
    value: str | None = None


Term = Stream | Parameter | Scalar | Node


@dataclass(frozen=True)
class Region:
    """A region in canonical coordinates ``[batch, columns]``.

    Attributes:
      expression: computes the value; inputs are the streams, then the parameters.
      streams: the dots below, with the weight row of every column.
      batch_rows: the row of canonical x behind every row of the region.
      parameters: vectors and the position of every column in them.
    """

    expression: Expression
    streams: tuple[tuple[WeightDot, np.ndarray], ...]
    batch_rows: np.ndarray
    parameters: tuple[tuple[Origin, np.ndarray], ...]


class RegionReader:
    """Reads regions; remembers every value it has seen, so shared subexpressions are read once."""

    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance
        self._terms: dict[int, Term | NoMatch] = {}

    def read(self, value: Value, columns: tuple[int, ...]) -> Region:
        """Read the region above ``value``, whose dimensions ``columns`` (in that order) hold the neurons.

        Raises:
          NoMatch: something in the region is not elementwise; the reason names the operation and its scope.
        """
        term = self.term(value)
        free = tuple(i for i in range(len(value.shape)) if i not in columns)
        width = int(np.prod([value.shape[i] for i in columns], dtype=np.int64))

        def canonical(index: np.ndarray) -> np.ndarray:
            return np.broadcast_to(index, value.shape).transpose(free + columns).reshape(-1, width)

        return _finish(term, canonical)

    def term(self, value: Value) -> Term:
        """The region above a value as a tree (with shared nodes)."""
        # Iterative, not recursive: a chain of a thousand operations is no reason to fail.
        stack = [value]
        while stack:
            top = stack[-1]
            if id(top) in self._terms:
                stack.pop()
                continue
            missing = [v for v in _read_operands(top) if id(v) not in self._terms]
            if missing:
                stack += missing
                continue
            stack.pop()
            try:
                self._terms[id(top)] = self._read(top)
            except NoMatch as no:
                self._terms[id(top)] = no
        known = self._terms[id(value)]
        if isinstance(known, NoMatch):
            raise known
        return known

    def _read(self, value: Value) -> Term:
        op = value.op
        if op is None:
            return self._parameter(value)
        if op.name in TRANSPARENT:
            return self.term(op.operands[value.index])
        if op.name == "dot_general":
            dot = read_weight_dot(op, self._provenance)
            return Stream(dot, dot.row_index(), dot.batch_index())
        if op.name == "constant":
            return _scalar(op)
        if op.name in _LAYOUT:
            return self._layout(op)
        if op.name not in OPERATIONS:
            raise NoMatch(f"{_describe(op)} stands between the matrix products", depth=1)
        args = tuple(self.term(operand) for operand in op.operands)
        if op.name == "convert" and isinstance(args[0], Parameter):
            return self._parameter(value)
        direction = op.text("comparison_direction") if op.name == "compare" else None
        return Node(op.name, args, value.dtype, direction)

    def _layout(self, op: Op) -> Term:
        value = op.operands[0]
        if self._provenance.is_weight(op.result) and not _is_scalar(value):
            return self._parameter(op.result)
        term = self.term(value)
        if isinstance(term, Scalar):
            return term
        apply = _LAYOUT[op.name]
        return _map_indices(term, lambda index: apply(np.broadcast_to(index, value.shape), op))

    def _parameter(self, value: Value) -> Term:
        try:
            origin = self._provenance.weight(value)
        except NoMatch as no:
            raise NoMatch(f"a value of shape {list(value.shape)} enters: {no.reason}", depth=1) from None
        if value.size > 1 << 22:
            raise NoMatch("a parameter as large as a matrix enters elementwise", depth=1)
        return Parameter(origin, np.arange(value.size).reshape(value.shape))


def _read_operands(value: Value) -> list[Value]:
    op = value.op
    if op is None or op.name in ("dot_general", "constant"):
        return []
    if op.name in TRANSPARENT:
        return [op.operands[value.index]]
    if op.name in _LAYOUT:
        return op.operands[:1]
    return list(op.operands) if op.name in OPERATIONS else []


def _is_scalar(value: Value) -> bool:
    return value.size == 1


def _scalar(op: Op) -> Scalar:
    value = op.constant()
    if value is None or (value.size > 1 and not (value == value.ravel()[0]).all()):
        raise NoMatch("a constant that differs by position enters", depth=1)
    first = value.ravel()[0]
    return Scalar(bool(first) if value.dtype == bool else float(first), op.result.dtype)


def _describe(op: Op) -> str:
    scope = op.scope
    return f"{op.name} (in {scope})" if scope else op.name


# --------------------------------------------------------------------------- layout on index arrays


def _broadcast(index: np.ndarray, op: Op) -> np.ndarray:
    dims, shape = op.ints("broadcast_dimensions"), op.result.shape
    order = sorted(range(len(dims)), key=lambda i: dims[i])
    expanded = [1] * len(shape)
    for axis, dim in enumerate(dims):
        expanded[dim] = index.shape[axis]
    return np.broadcast_to(index.transpose(order).reshape(expanded), shape)


def _slice(index: np.ndarray, op: Op) -> np.ndarray:
    bounds = zip(op.ints("start_indices"), op.ints("limit_indices"), op.ints("strides"), strict=True)
    return index[tuple(slice(start, stop, stride) for start, stop, stride in bounds)]


def _dynamic_slice(index: np.ndarray, op: Op) -> np.ndarray:
    starts = [start.op.constant() if start.op is not None else None for start in op.operands[1:]]
    window = []
    for length, size, start in zip(index.shape, op.result.shape, starts, strict=True):
        if length == size:
            window.append(slice(0, size))
            continue
        if start is None:
            raise NoMatch("a slice at a computed position stands between the matrix products", depth=1)
        first = min(max(int(start), 0), length - size)
        window.append(slice(first, first + size))
    return index[tuple(window)]


_LAYOUT: dict[str, Callable[[np.ndarray, Op], np.ndarray]] = {
    "reshape": lambda index, op: index.reshape(op.result.shape),
    "transpose": lambda index, op: index.transpose(op.ints("permutation")),
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
}


def _map_indices(term: Term, apply: Callable[[np.ndarray], np.ndarray]) -> Term:
    done: dict[int, Term] = {}

    def visit(term: Term) -> Term:
        if id(term) not in done:
            done[id(term)] = rebuild(term)
        return done[id(term)]

    def rebuild(term: Term) -> Term:
        match term:
            case Stream(dot, rows, batch):
                return Stream(dot, apply(rows), apply(batch))
            case Parameter(origin, index):
                return Parameter(origin, apply(index))
            case Node(op, args, dtype, value):
                return Node(op, tuple(visit(arg) for arg in args), dtype, value)
        return term

    return visit(term)


# --------------------------------------------------------------------------- into canonical form


def _finish(term: Term, canonical: Callable[[np.ndarray], np.ndarray]) -> Region:
    order = _topological(term)
    streams: list[tuple[WeightDot, np.ndarray]] = []
    parameters: list[tuple[Origin, np.ndarray]] = []
    slots: dict[int, tuple[str, int]] = {}
    batch_rows: np.ndarray | None = None
    for leaf in order:
        if isinstance(leaf, Stream):
            rows = _constant_along(canonical(leaf.rows), 0, "the neurons of different batch rows are mixed")
            batch = _constant_along(canonical(leaf.batch), 1, "batch rows and neurons are mixed")
            if batch_rows is not None and not np.array_equal(batch, batch_rows):
                raise NoMatch("two products meet whose batch rows are in different order", depth=2)
            batch_rows = batch
            slots[id(leaf)] = ("stream", _slot(streams, (leaf.dot, rows)))
        elif isinstance(leaf, Parameter):
            index = _constant_along(canonical(leaf.index), 0, "a parameter that depends on the batch row enters")
            slots[id(leaf)] = ("parameter", _slot(parameters, (leaf.origin, index)))
    if batch_rows is None:
        raise NoMatch("no matrix product with a parameter stands before it")
    expression = _linearize(order, slots, len(streams), len(parameters))
    return Region(expression, tuple(streams), batch_rows, tuple(parameters))


def _topological(term: Term) -> list[Term]:
    order: list[Term] = []
    seen: set[int] = set()
    stack: list[tuple[Term, bool]] = [(term, False)]
    while stack:
        top, ready = stack.pop()
        if ready:
            order.append(top)
        elif id(top) not in seen:
            seen.add(id(top))
            stack.append((top, True))
            stack += [(arg, False) for arg in getattr(top, "args", ())[::-1]]
    return order


def _constant_along(index: np.ndarray, axis: int, reason: str) -> np.ndarray:
    first = index.take(0, axis=axis)
    if index.shape[axis] == 1 or index.strides[axis] == 0:
        return first
    if not (index == np.expand_dims(first, axis)).all():
        raise NoMatch(reason, depth=2)
    return first


def _slot(found: list, entry: tuple) -> int:  # type: ignore[type-arg]
    for position, (source, index) in enumerate(found):
        same = source.op is entry[0].op if isinstance(source, WeightDot) else source.weight == entry[0].weight
        if same and np.array_equal(index, entry[1]):
            return position
    found.append(entry)
    return len(found) - 1


def _linearize(order: list[Term], slots: dict[int, tuple[str, int]], streams: int, parameters: int) -> Expression:
    inputs = streams + parameters
    number: dict[int, int] = {}
    instructions: list[Instruction] = []
    for term in order:
        match term:
            case Scalar(value, dtype):
                instruction = Instruction("constant", (), dtype, value)
            case Node(op, args, dtype, value):
                instruction = Instruction(op, tuple(number[id(arg)] for arg in args), dtype, value)
            case _:
                kind, position = slots[id(term)]
                number[id(term)] = position + (streams if kind == "parameter" else 0)
                continue
        number[id(term)] = inputs + len(instructions)
        instructions.append(instruction)
    return Expression(inputs, tuple(instructions), number[id(order[-1])])
