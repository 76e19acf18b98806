"""The tail of a head: the author's code between the product and what its reader compares.

Unlike the region between two products, it may read anything that does not follow from the product itself: masks and
penalties of a request, temperatures, noise, the bias of a grammar. Such values are *captured*: they are handed
to the replacement as they are, and only what follows from the product is repeated on candidates and on bounds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.region.terms import Captured, Node, Scalar, Term, map_indices
from hire_compiler.patterns.weights.provenance import Provenance

_FLOATS = ("float32", "bfloat16", "float16")
_MOVING = frozenset(LAYOUT) - {"dynamic_slice"}  # that one may start where only the run knows


class TailReader(RegionReader):
    """Reads regions in which whatever does not follow from one product is captured.

    Args:
      follows: whether a value comes from the product.
    """

    def __init__(self, provenance: Provenance, follows: Callable[[Value], bool]) -> None:
        super().__init__(provenance)
        self._follows = follows

    def _read_operands(self, value: Value) -> tuple[Value, ...]:
        if self._follows(value):
            op = value.op
            return op.operands[:1] if op is not None and op.name == "scatter" else super()._read_operands(value)
        return value.op.operands[:1] if value.op is not None and value.op.name in (*_MOVING, "convert") else ()

    def _read(self, value: Value) -> Term:
        op = value.op
        if self._follows(value):
            return self._overwritten(op) if op is not None and op.name == "scatter" else super()._read(value)
        if op is not None and op.name == "constant":
            constant = op.constant()
            if constant is not None and (constant == constant.ravel()[:1]).all():
                return super()._read(value)
        if op is not None and op.name == "convert":
            term = self.term(op.operands[0])
            if isinstance(term, Scalar) and value.dtype in _FLOATS:
                return Scalar(term.value, value.dtype)
        if op is not None and op.name in _MOVING:
            term = self.term(op.operands[0])
            if isinstance(term, Scalar):
                return term
            shape = op.operands[0].shape
            return map_indices(term, lambda index: LAYOUT[op.name](np.broadcast_to(index, shape), op))
        return Captured(value, np.arange(value.size).reshape(value.shape))

    def _overwritten(self, op: Op) -> Term:
        """``logits.at[ids].set(values)``: the same scatter into zeros and into ones says what it writes, and where."""
        body = op.blocks[0]
        value = op.results[0]
        if (
            len(op.operands) != 3
            or len(body.ops) != 1
            or body.returned != (body.args[1],)
            or value.dtype not in _FLOATS
        ):
            raise NoMatch("a scatter stands between the logits and what is compared, and it does not overwrite them")
        if any(self._follows(operand) for operand in op.operands[1:]):
            raise NoMatch("a scatter of what follows from the logits stands before what is compared")
        places = np.arange(value.size).reshape(value.shape)
        zeros, ones = (Captured(value, places, base) for base in (0.0, 1.0))
        written = Node("compare", (zeros, ones), "bool", "EQ", 1)
        nothing = Node("compare", (zeros, zeros), "bool", "NE", 1)  # NaN was written
        return Node(
            "select",
            (Node("or", (written, nothing), "bool", None, 3), zeros, self.term(op.operands[0])),
            value.dtype,
            None,
            4,
        )
