"""Numbers that are taken as they come: one for each batch row, or one for each neuron of each.

Padding that is masked out, the weight of a row, the scale of a quantised row: they multiply what a product made, and
know nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.region.terms import (
    Given,
    Joined,
    Node,
    Parameter,
    Scalar,
    Stream,
    Term,
    products_of,
    topological,
)

_FACTORS = {
    "multiply": ((0, 1), (1, 0)),
    "divide": ((0, 1),),
    "select": ((1, 0), (2, 0)),
}  # what is masked, and the mask


def beside_rows(op: Op, before: Sequence[Term | NoMatch]) -> tuple[Term, ...] | None:
    """The terms of what one number a batch row multiplies, or masks (padding); None for anything else."""
    for i, other in _FACTORS.get(op.name, ()):
        made, value = before[i], op.operands[other]
        if isinstance(made, (NoMatch, Joined)) or not _is_factor(before[other], products_of(made)):
            continue
        batch = next((part.batch for part in topological(made) if isinstance(part, Stream)), None)
        if batch is None or (batch.max() == 0 and isinstance(before[other], Parameter)):
            continue  # of one row, a number that is given is read as a parameter is
        given = _row_factor(value, np.broadcast_to(batch, op.operands[i].shape))
        if given is not None and _follows(given.value, {dot.op for dot in products_of(made)}):
            given = None  # a norm of the neurons themselves
        rest = {at: term for at, term in enumerate(before) if at not in (i, other) and _is_constant(term)}
        if given is None or len(rest) + 2 < len(before):
            continue
        terms = {i: made, other: given, **rest}
        return tuple(term for at in range(len(before)) if not isinstance(term := terms[at], NoMatch))
    return None


def _is_constant(term: Term | NoMatch) -> bool:
    return not isinstance(term, NoMatch) and all(isinstance(part, (Scalar, Node)) for part in topological(term))


def _is_factor(term: Term | NoMatch, products: Collection[WeightDot]) -> bool:
    """Whether a value cannot be read as code of some products, or is none of them."""
    return isinstance(term, (NoMatch, Parameter)) or (
        isinstance(term, (Node, Stream)) and products_of(term).isdisjoint(products)
    )


def _row_factor(value: Value, batch: np.ndarray) -> Given | None:
    """A value as given, if its elements are numbers of the batch rows to which they belong."""
    if value.shape not in (batch.shape, ()):
        return None
    source = _before_layout(value)
    if source.size != batch.max() + 1:
        return None
    given = _given_from(value, source)
    return given if np.array_equal(np.broadcast_to(given.index, batch.shape), batch) else None


def _follows(value: Value, products: Collection[Op]) -> bool:
    """Whether a value follows from some products of its block."""
    first = min(op.position for op in products)
    stack, seen = [value.op], set[Op]()
    while stack:
        op = stack.pop()
        if op is None or op in seen or op.position < first:
            continue
        if op in products:
            return True
        seen.add(op)
        stack += [operand.op for operand in op.operands]
    return False


def row_value(value: Value, batch: int) -> Value | None:
    """The values of which a value is a broadcast, if there is one for each batch row, and they are computed."""
    value = _before_layout(value)
    computed = value.op is not None and value.op.name not in ("constant", "iota", "dynamic_slice")
    return value if computed and value.size == batch else None


def _before_layout(value: Value) -> Value:
    """The values that are laid out anew, or spread."""
    while value.op is not None and value.op.name in LAYOUT and value.op.name != "dynamic_slice":
        value = value.op.operands[0]
    return value


def given_row(value: Value, batch: int) -> Given:
    """A given value; of a broadcast, what is spread by it."""
    source = row_value(value, batch)
    return given(value) if source is None else _given_from(value, source)


def _given_from(value: Value, source: Value) -> Given:
    """A value that is a layout of another, which is given."""
    chain = []
    while value is not source:
        assert value.op is not None
        chain.append(value.op)
        value = value.op.operands[0]
    index = np.arange(source.size).reshape(source.shape)
    for op in reversed(chain):
        index = LAYOUT[op.name](index, op)
    return Given(source, index)


def given(value: Value) -> Given:
    """A value, element by element."""
    return Given(value, np.arange(value.size).reshape(value.shape))
