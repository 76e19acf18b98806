"""What stands between two matrix products, as a tree: products' elements, parameters, constants, operations.

Every leaf carries index arrays that say *which weight row*, *which input row* or *which entry* each of its elements
is, in the shape of the tensor at hand; a layout operation is applied to them by NumPy (views, not copies).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hire_compiler.graph.graph import Value
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.weights.provenance import Origin


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
class Given:
    """Elements of a value that is taken as it comes: what an adapter adds to a product."""

    value: Value
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Scalar:
    """One constant for all elements."""

    value: float | bool
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """An elementwise operation.

    Attributes:
      size: the operations below it, shared ones counted as often as they are used.
      products: the matrix products below it, those behind row numbers included.
    """

    op: str
    args: tuple[Term, ...]
    dtype: str
    value: str | None = None
    size: int = 1
    products: frozenset[WeightDot] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "products", frozenset[WeightDot]().union(*map(products_of, self.args)))


@dataclass(frozen=True, eq=False)
class RowNumber:
    """Numbers drawn from all neurons of a batch row: their sum, their largest, the k-th largest, the whole ranking.

    Attributes:
      op: ``row_sum``, ``row_max``, ``row_min``, ``row_rank``.
      arg: the term reduced; its own index arrays are in the shape that was reduced.
      columns: dimensions of that shape that hold the neurons, and the shape: where ``arg`` becomes canonical.
      batch: which batch row of the canonical ``arg`` an element belongs to.
      rank: of a ``row_rank``, which place (0 is the largest) an element holds; else zeros.
    """

    op: str
    arg: Term
    shape: tuple[int, ...]
    columns: tuple[int, ...]
    dtype: str
    batch: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True, eq=False)
class Joined:
    """Terms side by side, as a ``concatenate`` puts them; slices take them apart again.

    Attributes:
      parts: each in the shape of the whole; what its index arrays say outside of its own place means nothing.
      which: for every element, the part that it belongs to.
      what: the operation that joined them, for the user.
    """

    parts: tuple[Term, ...]
    which: np.ndarray
    what: str


@dataclass(frozen=True, eq=False)
class Captured:
    """Elements of a value that is handed to the replacement as it is.

    Attributes:
      base: None for the value itself; a number for what the scatter that makes it writes into an array of that number.
    """

    value: Value
    index: np.ndarray
    base: float | None = None


Term = Stream | Parameter | Given | Scalar | Node | RowNumber | Joined | Captured


def map_indices(term: Term, apply: Callable[[np.ndarray], np.ndarray]) -> Term:
    """The term after a layout operation, which ``apply`` performs on index arrays."""
    done: dict[int, Term] = {}
    for part in topological(term):
        done[id(part)] = _mapped(part, apply, done)
    return done[id(term)]


def _mapped(term: Term, apply: Callable[[np.ndarray], np.ndarray], done: dict[int, Term]) -> Term:
    match term:
        case Stream(dot, rows, batch):
            return Stream(dot, apply(rows), apply(batch))
        case Parameter(origin, index):
            return Parameter(origin, apply(index))
        case Given(value, index):
            return Given(value, apply(index))
        case Captured(value, index, base):
            return Captured(value, apply(index), base)
        case Node(op, args, dtype, value, size):
            return Node(op, tuple(done[id(arg)] for arg in args), dtype, value, size)
        case RowNumber(op, arg, shape, columns, dtype, batch, rank):
            return RowNumber(op, arg, shape, columns, dtype, apply(batch), apply(rank))
        case Joined(parts, which, what):
            return taken_apart(tuple(done[id(part)] for part in parts), apply(which), what)
    return term


def taken_apart(parts: tuple[Term, ...], which: np.ndarray, what: str) -> Term:
    """Joined terms, or the one part that is left of them."""
    first = int(which.flat[0]) if which.size else 0
    return parts[first] if (which == first).all() else Joined(parts, which, what)


def topological(term: Term) -> list[Term]:
    """Every term below (operands of a row number excluded), arguments before what uses them."""
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
            if isinstance(top, (Node, Joined)):
                below = top.args if isinstance(top, Node) else top.parts
                stack += [(term, False) for term in below[::-1]]
    return order


def products_of(term: Term) -> frozenset[WeightDot]:
    """Every matrix product with a weight below, those behind row numbers included."""
    match term:
        case Stream(dot):
            return frozenset((dot,))
        case Node():
            return term.products
        case RowNumber():
            return products_of(term.arg)
        case Joined():
            return frozenset[WeightDot]().union(*map(products_of, term.parts))
    return frozenset()
