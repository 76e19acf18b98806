"""Approximate top-k (``approx_max_k``, ``approx_min_k``) where nothing is approximated: XLA sorts, and cuts.

On a CPU JAX asks XLA to fall back to a sort, of which the first are kept. That sort is not stable: which of equal
numbers comes first, or is kept at all, is XLA's choice. Elsewhere the platform approximates in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, read_body
from hire_compiler.patterns.operations.reducers import orders_down

APPROXIMATE = "custom_call@ApproxTopK"


@dataclass(frozen=True)
class SortedInstead:
    """A sort and a cut that stand for an approximate top-k.

    Attributes:
      axis: along which dimension.
      down: the largest are kept.
    """

    axis: int
    down: bool


def sorted_instead(op: Op) -> SortedInstead | None:
    """The sort that an approximate top-k is on its platform; None where it is none."""
    asked = _mlir.approximate_top_k(op.ir)
    if asked is None or not asked.sorts or len(op.operands) != 4 or len(op.results) != 2:
        return None
    down = orders_down(read_body(asked.comparator), 1)
    return None if down is None else SortedInstead(asked.axis, down)
