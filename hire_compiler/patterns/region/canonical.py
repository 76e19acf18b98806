"""From a tree of terms to a straight-line expression over ``[batch, columns]``, its inputs resolved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.graph.graph import Value
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.region.terms import (
    Captured,
    Given,
    Joined,
    Node,
    Parameter,
    RowNumber,
    Scalar,
    Stream,
    Term,
    products_of,
    topological,
)
from hire_compiler.patterns.weights.provenance import Origin

Canonical = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Outside:
    """A captured value in canonical coordinates.

    Attributes:
      value: of any shape.
      index: for every entry of ``[batch, columns]`` its position in the flat value; a dimension along which it does not
        change has length 1.
      base: as in :class:`~hire_compiler.patterns.region.terms.Captured`.
    """

    value: Value
    index: np.ndarray
    base: float | None

    def same(self, other: Outside) -> bool:
        """Whether both are the same numbers."""
        alike = self.value is other.value and self.base == other.base
        return alike and np.array_equal(self.index, other.index)


@dataclass(frozen=True)
class Region:
    """A region in canonical coordinates ``[batch, columns]``.

    Attributes:
      expression: computes the value; inputs are the streams, then what is given, then the parameters.
      streams: the dots below, with the weight row of every column.
      batch_rows: the row of canonical x behind every row of the region.
      parameters: vectors and the position of every column in them.
      givens: values that are taken as they come, and which of its elements each element ``[batch, columns]`` is.
      captured: values that are handed over as they are.
    """

    expression: Expression
    streams: tuple[tuple[WeightDot, np.ndarray], ...]
    batch_rows: np.ndarray
    parameters: tuple[tuple[Origin, np.ndarray], ...]
    givens: tuple[tuple[Value, np.ndarray], ...] = ()
    captured: tuple[Outside, ...] = ()

    @property
    def products(self) -> tuple[WeightDot, ...]:
        """The dot behind each stream."""
        return tuple(dot for dot, _ in self.streams)


def canonical_form(shape: tuple[int, ...], columns: tuple[int, ...]) -> Canonical:
    """How index arrays of ``shape`` become ``[batch, columns]``; ``columns`` are the neurons' dimensions, in order."""
    free = tuple(i for i in range(len(shape)) if i not in columns)
    width = int(np.prod([shape[i] for i in columns], dtype=np.int64))
    return lambda index: np.broadcast_to(index, shape).transpose(free + columns).reshape(-1, width)


def resolve(term: Term, canonical: Canonical) -> Region:
    """The region of a term.

    Raises:
      NoMatch: rows or neurons of different places meet in it.
    """
    if not products_of(term):
        raise NoMatch("no matrix product with a parameter stands before it")
    resolver = _Resolver()
    output = resolver.visit(term, canonical)
    return resolver.region(output)


def not_taken_apart(joined: Joined) -> NoMatch:
    """The reason why joined terms that no slice takes apart are none of a block's neurons."""
    before = tuple(sorted({dot.op for dot in products_of(joined)}, key=lambda op: op.position))
    return NoMatch(f"{joined.what} stands between the matrix products", depth=3, involved=before)


class _Resolver:
    """Collects streams, parameters and instructions. Inputs get their final numbers at the end."""

    def __init__(self) -> None:
        self._streams: list[tuple[WeightDot, np.ndarray]] = []
        self._parameters: list[tuple[Origin, np.ndarray]] = []
        self._givens: list[tuple[Value, np.ndarray]] = []
        self._captured: list[Outside] = []
        self._batch_rows: np.ndarray | None = None
        self._instructions: list[tuple[Instruction, tuple[_Number, ...]]] = []
        self._number: dict[int, _Number] = {}

    def visit(self, term: Term, canonical: Canonical) -> _Number:
        parts = topological(term)
        for part in parts:
            if isinstance(part, Joined):
                raise not_taken_apart(part)
        for part in parts:
            if id(part) not in self._number:
                self._number[id(part)] = self._place(part, canonical)
            elif isinstance(part, RowNumber):
                self._check_batch(part.batch, canonical)
        return self._number[id(term)]

    def region(self, output: _Number) -> Region:
        assert self._batch_rows is not None
        counts = (len(self._streams), len(self._givens), len(self._parameters), len(self._captured))
        kinds = ("stream", "given", "parameter", "captured", "value")
        first = {kind: sum(counts[:i]) for i, kind in enumerate(kinds)}
        instructions = tuple(
            Instruction(i.op, tuple(first[kind] + at for kind, at in args), i.dtype, i.value)
            for i, args in self._instructions
        )
        expression = Expression(first["value"], instructions, first[output[0]] + output[1])
        return Region(
            expression,
            tuple(self._streams),
            self._batch_rows,
            tuple(self._parameters),
            tuple(self._givens),
            tuple(self._captured),
        )

    def _place(self, term: Term, canonical: Canonical) -> _Number:
        match term:
            case Stream(dot, rows, batch):
                self._check_batch(batch, canonical)
                columns = _constant_along(canonical(rows), 0, "the neurons of different batch rows are mixed")
                return "stream", _slot(self._streams, (dot, columns))
            case Parameter(origin, index):
                columns = _constant_along(canonical(index), 0, "a parameter that depends on the batch row enters")
                return "parameter", _slot(self._parameters, (origin, columns))
            case Given(value, index):
                return "given", _slot(self._givens, (value, canonical(index)))
            case Captured(outside, index, base):
                return self._capture(Outside(outside, _shrunk(canonical(index)), base))
            case Scalar(value, dtype):
                return self._emit(Instruction("constant", (), dtype, value), ())
            case RowNumber():
                return self._row_number(term, canonical)
            case Node(op, args, dtype, value):
                return self._emit(Instruction(op, (), dtype, value), tuple(self._number[id(arg)] for arg in args))
            case Joined():
                raise not_taken_apart(term)

    def _capture(self, entry: Outside) -> _Number:
        known = next((i for i, other in enumerate(self._captured) if entry.same(other)), None)
        if known is None:
            self._captured.append(entry)
        return "captured", len(self._captured) - 1 if known is None else known

    def _row_number(self, term: RowNumber, canonical: Canonical) -> _Number:
        self._check_batch(term.batch, canonical)
        inner = canonical_form(term.shape, term.columns)
        arg = self.visit(term.arg, inner)
        width = int(np.prod([term.shape[i] for i in term.columns], dtype=np.int64))
        value = float(width)
        if term.op == "row_rank":
            ranks = np.unique(term.rank)
            if len(ranks) > 1:
                raise NoMatch("several of the largest neurons enter, not only the smallest of them", depth=3)
            value = float(ranks[0]) / width
        return self._emit(Instruction(term.op, (), term.dtype, value), (arg,))

    def _emit(self, instruction: Instruction, args: tuple[_Number, ...]) -> _Number:
        self._instructions.append((instruction, args))
        return "value", len(self._instructions) - 1

    def _check_batch(self, batch: np.ndarray, canonical: Canonical) -> None:
        rows = _constant_along(canonical(batch), 1, "batch rows and neurons are mixed")
        if self._batch_rows is not None and not np.array_equal(rows, self._batch_rows):
            raise NoMatch("two products meet whose batch rows are in different order", depth=2)
        self._batch_rows = rows


_Number = tuple[str, int]  # which list, and the position there


_REORDERED = 1 << 16


def _shrunk(index: np.ndarray) -> np.ndarray:
    """An index without the dimensions along which it does not change."""
    for axis in (0, 1):
        first = np.expand_dims(index.take(0, axis=axis), axis)
        index = first if index.shape[axis] > 1 and (index == first).all() else index
    if index.size > _REORDERED and not np.array_equal(index.ravel(), np.arange(index.size)):
        raise NoMatch("a large value enters in another order than the logits", depth=2)
    return index


def _constant_along(index: np.ndarray, axis: int, reason: str) -> np.ndarray:
    first = index.take(0, axis=axis)
    if index.shape[axis] == 1 or index.strides[axis] == 0:
        return first
    if not (index == np.expand_dims(first, axis)).all():
        raise NoMatch(reason, depth=2)
    return first


def _slot(found: list, entry: tuple) -> int:  # type: ignore[type-arg]
    for position, (source, index) in enumerate(found):
        same = source is entry[0] or (isinstance(source, Origin) and source == entry[0])
        if isinstance(source, WeightDot):
            same = source.op is entry[0].op and source.weight == entry[0].weight
        if same and np.array_equal(index, entry[1]):
            return position
    found.append(entry)
    return len(found) - 1
