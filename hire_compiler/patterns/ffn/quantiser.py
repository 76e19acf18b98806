"""Inputs that are quantised at run time: one scale for each batch row, made from the row itself.

::

    h ── abs ── max over the row ── ÷ 127 ── s
    h ── ÷ s ── round ── convert ── dot(q_down) ── convert ── × s ── × scale

What becomes of h before the product is a *tail*: it is repeated on the neurons that were computed. What is left out is
zero, so neither the largest number of a row nor a zero changes. The scale of a row is read again behind the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hire_compiler.graph.expression import Expression
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.canonical import Region, canonical_form, resolve
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.region.given import row_value
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.region.terms import Stream, Term, products_of
from hire_compiler.patterns.weights.narrow_reader import is_narrow_type
from hire_compiler.patterns.weights.provenance import Provenance

_STEPS = 16
_BESIDE_CONSTANTS = frozenset({"maximum", "minimum", "add", "subtract"})
_ROUNDING = frozenset({"convert", "round_nearest_even", "round_nearest_afz", "reduce_precision"})


@dataclass(frozen=True, eq=False)
class Quantiser:
    """What is done to h ``[b, m]`` before the last product reads it.

    Attributes:
      h: the value that is quantised.
      code: from h to the product's input.
      scales: numbers of each batch row that code behind the product reads, and how they follow from h: ``[b, 1]``.
    """

    h: Value
    code: Expression
    scales: tuple[tuple[Value, Expression], ...]


def read_quantiser(down: WeightDot, provenance: Provenance) -> Quantiser | None:
    """How the input of a product is quantised, row by row; None if it is not.

    Raises:
      NoMatch: it is, but zeros do not stay zero, or it draws other numbers from the rows.
    """
    if not is_narrow_type(down.x.dtype):
        return None
    h = _quantised(down)
    if h is None:
        return None
    try:
        return _read(down, h, _From(provenance, h, down))
    except NoMatch as no:
        raise NoMatch(no.reason, depth=no.depth, involved=_products_before(h)) from None


def _read(down: WeightDot, h: Value, reader: RegionReader) -> Quantiser:
    region = reader.read(down.x, down.x_contracting)
    signed = not _is_nonnegative(h)
    _check(region, down, signed)
    if not _keeps_zeros(region.expression):
        raise NoMatch("the neurons of its block are quantised with a zero point, so zeros do not stay zero", depth=3)
    cone = _cone(down.x, h)
    leaving = [op.result for op in cone if _is_row(op, down) and any(user not in cone for user, _ in op.result.uses)]
    scales = []
    for value in sorted(leaving, key=lambda value: value.op.position if value.op else 0):
        term = reader.term(value)
        if not products_of(term):
            continue  # a constant
        own = resolve(term, canonical_form(value.shape, ()))
        _check(own, down, signed)
        scales.append((value, own.expression))
    return Quantiser(h, region.expression, tuple(scales))


def _products_before(h: Value) -> tuple[Op, ...]:
    """The products of which h is made, whether or not what stands between can be read."""
    found: dict[Op, None] = {}
    stack, seen = [h], set[int]()
    while stack and len(seen) < 20 * _STEPS:
        value = stack.pop()
        if value.op is None or id(value) in seen or value.size < h.size:  # a scale of rows or columns
            continue
        seen.add(id(value))
        if value.op.name == "dot_general":
            found[value.op] = None
        else:
            stack += value.op.operands
    return tuple(found)


class _From(RegionReader):
    """Reads what follows from one value as if that were a product."""

    def __init__(self, provenance: Provenance, h: Value, down: WeightDot) -> None:
        super().__init__(provenance)
        order = down.x_free + down.x_contracting
        shape = tuple(h.shape[i] for i in order)
        back = tuple(order.index(i) for i in range(len(order)))
        row, column = np.divmod(np.arange(h.size), down.d)
        batch, rows = (index.reshape(shape).transpose(back) for index in (row, column))
        self._terms[id(h)] = Stream(down, rows, batch)

    def _beside_whole_numbers(self, op: Op, before: list[Term | NoMatch]) -> None:
        """The scales of rows follow from h, and are read."""


def _quantised(down: WeightDot) -> Value | None:
    """What is divided, or multiplied, by numbers of its own rows before the product reads it."""
    value, found = down.x, None
    for _ in range(_STEPS):
        op = value.op
        if op is None or op.result.shape != down.x.shape:
            return found
        if op.name in _ROUNDING:
            value = op.operands[0]
        elif op.name == "clamp":
            value = op.operands[1]
        elif op.name in _BESIDE_CONSTANTS and (other := _beside_constant(op)) is not None:
            value = other
        elif op.name in ("multiply", "divide", "subtract", "add"):
            by_row = [i for i in (1, 0) if row_value(op.operands[i], down.batch) is not None]
            if not by_row or (op.name == "divide" and by_row[0] == 0):
                return found
            value = op.operands[1 - by_row[0]]
            if _follows(op.operands[by_row[0]], value):
                found = value
        else:
            return found
    return found


def _beside_constant(op: Op) -> Value | None:
    """The other operand of an operation with a constant."""
    plain = [value for value in op.operands if not _is_constant(value)]
    return plain[0] if len(plain) == 1 else None


def _is_constant(value: Value) -> bool:
    while value.op is not None and value.op.name in (*LAYOUT, "convert"):
        value = value.op.operands[0]
    return value.op is not None and value.op.name == "constant"


def _follows(value: Value, h: Value) -> bool:
    return any(op.operands and h in op.operands for op in _cone(value, h))


def _cone(value: Value, h: Value) -> set[Op]:
    """The operations between two values."""
    found: set[Op] = set()
    stack = [value]
    while stack and len(found) < 20 * _STEPS:
        top = stack.pop()
        if top is h or top.op is None or top.op in found:
            continue
        found.add(top.op)
        stack += top.op.operands
    return found


def _is_row(op: Op, down: WeightDot) -> bool:
    return len(op.results) == 1 and op.result.size == down.batch and op.name not in ("constant", "iota")


def _check(region: Region, down: WeightDot, signed: bool) -> None:
    whole = len(region.streams) == 1 and np.array_equal(region.batch_rows, np.arange(down.batch))
    if not whole or region.parameters or region.givens:
        raise NoMatch("its input is quantised by numbers of other rows", depth=3)
    if not _ignores_zeros(region.expression, signed):
        raise NoMatch("its input is quantised by numbers of its row that depend on zeros", depth=3)


def _ignores_zeros(code: Expression, signed: bool) -> bool:
    """Whether zeros are made of zeros, and change nothing of what is made of others (``signed``: of any sign)."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(8, 64)) * 3
    for rows in (h, np.abs(h), -np.abs(h)) if signed else (np.abs(h),):
        own = np.broadcast_to(code.evaluate([rows]), (8, 64))
        beside = np.broadcast_to(code.evaluate([np.concatenate([rows, 0 * rows], axis=1)]), (8, 128))
        if not np.array_equal(own, beside[:, :64]):
            return False
    return True


def _is_nonnegative(value: Value, steps: int = _STEPS) -> bool:
    """Whether no number of a value is below zero, by the operations that make it: a ReLU, a square."""
    op = value.op
    if op is None or not steps:
        return False
    if op.name == "constant":
        constant = op.constant()
        return constant is not None and bool((constant >= 0).all())
    if op.name == "multiply" and op.operands[0] is op.operands[1]:
        return True
    each = (_is_nonnegative(operand, steps - 1) for operand in op.operands)
    if op.name in ("maximum", "abs", "chlo.square"):
        return op.name != "maximum" or any(each)
    return op.name in ("multiply", "add", "convert", *LAYOUT) and all(each)


def _keeps_zeros(code: Expression) -> bool:
    h = np.concatenate([np.random.default_rng(0).normal(size=(8, 64)), np.zeros((8, 64))], axis=1)
    return not np.any(np.broadcast_to(code.evaluate([h]), h.shape)[:, 64:])
