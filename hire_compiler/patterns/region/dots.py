"""A matrix product with a weight, in canonical form: ``x [batch, d]`` times ``weight [rows, d]`` transposed."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Weight
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.weights.narrow_reader import is_whole_type, unwidened
from hire_compiler.patterns.weights.provenance import Origin, Provenance

SUPPORTED = ("float32", "bfloat16", "float16")  # others would lose accuracy: exact sums here are float32

_STEPS = 8
_FEW_ROWS = 16  # of an input that is an argument of the program itself
_LARGE = 1 << 14  # numbers: a computed weight of fewer is none of anybody's worries


@dataclass(frozen=True, eq=False)
class WeightDot:
    """``result = x · weightᵀ`` with everything else about the dot's dimensions resolved.

    Attributes:
      op: the ``dot_general``.
      x: the other operand, of any rank.
      x_free, x_contracting: its dimensions; canonical ``x`` is ``[prod(free), prod(contracting)]``.
      weight: the weight as rows ``[rows, d]``.
      columns: the same weight the other way, ``[d, rows]``: a row for each entry of x.
      row_shape: shape of the weight's free dimensions in the result.
      rows_first: the weight is the left operand, so its rows come first in the result.
      layer: counter that picks the layer of a stacked weight.
      precise: the author asked for full precision where the platform would use less.
    """

    op: Op
    x: Value
    x_free: tuple[int, ...]
    x_contracting: tuple[int, ...]
    weight: Weight
    columns: Weight
    row_shape: tuple[int, ...]
    rows_first: bool
    layer: Value | None
    precise: bool

    @property
    def result(self) -> Value:
        """The dot's value."""
        return self.op.result

    @property
    def start(self) -> tuple[Op, int]:
        """The dot, and which operand is x."""
        return self.op, int(self.rows_first)

    @property
    def factor(self) -> Value:
        """The operand that is the weight, as the author has it."""
        return self.op.operands[not self.rows_first]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the free dimensions of x."""
        return tuple(self.x.shape[i] for i in self.x_free)

    @property
    def batch(self) -> int:
        """Rows of canonical x."""
        return prod(self.batch_shape)

    @property
    def rows(self) -> int:
        """Rows of the weight: neurons, or vocabulary."""
        return self.weight.shape[0]

    @property
    def d(self) -> int:
        """Width of one row."""
        return self.weight.shape[1]

    def row_index(self) -> np.ndarray:
        """For every element of the result, the row of the weight it belongs to (a broadcast view)."""
        return self.spread_rows(np.arange(self.rows).reshape(self.row_shape))

    def spread_rows(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the weight's free dimensions in the shape of the result."""
        ones = (1,) * len(self.batch_shape)
        shape = rows.shape + ones if self.rows_first else ones + rows.shape
        return np.broadcast_to(rows.reshape(shape), self.result.shape)

    def batch_index(self) -> np.ndarray:
        """For every element of the result, the row of canonical x it belongs to (a broadcast view)."""
        rows = np.arange(self.batch).reshape(self.batch_shape)
        ones = (1,) * (len(self.result.shape) - len(self.batch_shape))
        shape = ones + self.batch_shape if self.rows_first else self.batch_shape + ones
        return np.broadcast_to(rows.reshape(shape), self.result.shape)


def is_precise(op: Op) -> bool:
    """Whether the author asked a product for full precision where the platform would use less."""
    attributes = op.ir.attributes
    return "precision_config" in attributes and "HIGHEST" in str(attributes["precision_config"])


def contracted_size(op: Op) -> int:
    """How many numbers each result of a ``dot_general`` sums."""
    return prod(op.operands[0].shape[i] for i in _mlir.dot_dimensions(op.ir)[2])


def read_weight_dot(op: Op, provenance: Provenance) -> WeightDot:
    """Read a ``dot_general`` one of whose operands is a weight.

    Raises:
      NoMatch: batch dimensions, or no operand is a weight.
    """
    left, right = op.operands
    left_is_weight, right_is_weight = (provenance.is_factor(op, position) for position in (0, 1))
    if not (left_is_weight or right_is_weight):
        raise NoMatch("neither operand is a parameter")
    if left_is_weight != right_is_weight:
        _check_not_input(op, int(right_is_weight), provenance)
    check_product(op)
    # Where the input itself is an argument of the program, both operands look alike: the larger is the weight.
    rows_first = left_is_weight and not (right_is_weight and right.size >= left.size)
    return product_with(op, provenance.factor(op, 0 if rows_first else 1), rows_first=rows_first)


def _check_not_input(op: Op, position: int, provenance: Provenance) -> None:
    """Check that the only operand that is an argument is not the input of a product whose weight is computed.

    Raises:
      NoMatch: it has few rows, and the other operand is much larger and made of parameters alone.
    """
    given, other = op.operands[position], op.operands[1 - position]
    rows = given.size // max(contracted_size(op), 1)
    source = provenance.sources.weight(other)
    if source is None or source.looked_up or rows > _FEW_ROWS or other.size < max(8 * given.size, _LARGE):
        return
    raise NoMatch(f"its weight is no parameter as it stands: {provenance.refusal(other)}", depth=1)


def check_product(op: Op) -> None:
    """Check that a ``dot_general`` is a plain product of floats.

    Raises:
      NoMatch: batch dimensions, an empty batch, or another type.
    """
    check_type(op)
    batch = _mlir.dot_dimensions(op.ir)[0]
    if batch:
        count = prod(op.operands[0].shape[i] for i in batch)
        if _is_summed_over(op, len(batch)):
            raise NoMatch(f"its inputs are multiplied and scaled in {count} blocks, which are added up", depth=2)
        raise NoMatch(f"the product is batched over {count} matrices (experts or heads)", depth=1)


def check_type(op: Op) -> None:
    """Check that a ``dot_general`` multiplies and sums numbers of types that are rewritten, and any at all.

    Raises:
      NoMatch: it does not.
    """
    if op.result.dtype not in SUPPORTED and not _is_of_whole_numbers(op):
        raise NoMatch(f"it is a {op.result.dtype} product; only float32, bfloat16 and float16 are rewritten", depth=1)
    if any(operand.dtype == "float64" for operand in op.operands):
        raise NoMatch("it multiplies float64; only float32, bfloat16 and float16 are rewritten", depth=1)
    if op.result.size == 0:
        raise NoMatch("its batch is empty", depth=1)
    if any(operand.size == 0 for operand in op.operands):
        raise NoMatch("it sums nothing", depth=1)


def _is_summed_over(op: Op, batch: int) -> bool:
    """Whether a batched product is scaled and then summed over what it is batched over: blocks of its inputs."""
    value = op.result
    for _ in range(_STEPS):
        if len(value.uses) != 1:
            return False
        reader = value.uses[0][0]
        if reader.name == "reduce":
            return set(reader.ints("dimensions")) == set(range(batch))
        if reader.name not in ("convert", "multiply", "subtract"):
            return False
        value = reader.result
    return False


def _is_of_whole_numbers(op: Op) -> bool:
    """Whether a product sums narrow integers in 32 bits, exactly."""
    narrow = (is_whole_type(unwidened(op, position).dtype) for position in (0, 1))
    return op.result.dtype == "int32" and all(narrow)


def product_with(op: Op, origin: Origin, *, rows_first: bool) -> WeightDot:
    """A checked product with a weight in the place of its left (``rows_first``) or right operand.

    Where the operand is joined from several weights, ``origin`` is one of them, and the result that of all.
    """
    _, _, left, right = _mlir.dot_dimensions(op.ir)
    x = unwidened(op, int(rows_first))
    x_contracting, w_contracting = (right, left) if rows_first else (left, right)
    # The pairs of contracted dimensions may stand in any order: take them as the weight stores them.
    pairs = sorted(zip(w_contracting, x_contracting, strict=True))
    w_contracting, x_contracting = tuple(i for i, _ in pairs), tuple(i for _, i in pairs)
    return WeightDot(
        op=op,
        x=x,
        x_free=tuple(i for i in range(len(x.shape)) if i not in x_contracting),
        x_contracting=x_contracting,
        weight=origin.weight.as_rows(w_contracting),
        columns=origin.weight.as_columns(w_contracting),
        row_shape=tuple(n for i, n in enumerate(origin.weight.shape) if i not in w_contracting),
        rows_first=rows_first,
        layer=origin.layer,
        precise=is_precise(op),
    )
