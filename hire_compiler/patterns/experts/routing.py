"""How many experts a router chooses for each row, read off the code that makes its weights."""

from __future__ import annotations

from collections import deque

from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.contractions import is_product
from hire_compiler.patterns.operations.reducers import is_argmax
from hire_compiler.patterns.weights.provenance import Provenance

_STEPS = 200  # operations that make a router's weights out of its scores


def routed_experts(weights: Value, experts: int, provenance: Provenance) -> int | None:
    """How many of the experts a row may use; 0 if some are chosen and it is not known how many; None if none are.

    Only a choice among as many as there are experts counts, the nearest one. The way back ends at the router's own
    product.
    """
    queue, seen = deque([weights.op]), set[Op]()
    chosen: int | None = None
    while queue and len(seen) < _STEPS:
        op = queue.popleft()
        if op is None or op in seen:
            continue
        seen.add(op)
        if op.name == "chlo.top_k" and op.operands[0].shape[-1] == experts:
            return op.results[0].shape[-1]
        if op.name == "reduce" and len(op.operands) == 4 and _length(op, op.ints("dimensions")[0]) == experts:
            return 1 if is_argmax(op) else chosen
        if op.name == "sort" and _length(op, op.int("dimension")) == experts:
            chosen = 0
        if is_product(op) and any(provenance.is_weight(v) for v in op.operands):
            continue
        queue += [v.op for v in op.operands]
    return chosen


def scored_by(weights: Value, provenance: Provenance) -> Op | None:
    """The product with a weight, nearest to a router's weights, of which they are made; its scores are as many."""
    queue, seen = deque([weights.op]), set[Op]()
    while queue and len(seen) < _STEPS:
        op = queue.popleft()
        if op is None or op in seen:
            continue
        seen.add(op)
        if is_product(op) and any(provenance.is_weight(v) for v in op.operands):
            return op if op.result.size == weights.size else None
        queue += [v.op for v in op.operands]
    return None


def _length(op: Op, axis: int) -> int:
    return op.operands[0].shape[axis]
