"""Weights that are computed: which parameter stands behind an operand that is no parameter itself.

Only for the reports. ``x · (w · scale)`` or ``x · int8(w)`` is no site, but a user who expected one has to read why;
attention (activations times activations) is none of his worries.
"""

from __future__ import annotations

from hire_compiler.expression import OPERATIONS
from hire_compiler.graph import Op, Value
from hire_compiler.patterns.layout import LAYOUT
from hire_compiler.patterns.provenance import Provenance

_MAX_VISITED = 64
_JOINING = frozenset({
    "concatenate", "pad", "gather", "reduce", "reduce_precision", "bitcast_convert", "scatter", "dynamic_update_slice",
    "shift_left", "shift_right_logical", "shift_right_arithmetic", "xor",
})  # fmt: skip


def computed_weight(op: Op, provenance: Provenance) -> tuple[Value, str, str] | None:
    """A dot's operand that is computed from parameters alone, the largest parameter behind it, and why it is none."""
    found = [
        (operand, name, provenance.refusal(operand))
        for operand in op.operands
        if not provenance.is_weight(operand) and (name := _source(operand, provenance)) is not None
    ]
    if len(found) == 2:
        # Where the input is an argument, too, it looks alike: a weight is the larger by far.
        found.sort(key=lambda entry: entry[0].size)
        found = found[1:] if found[1][0].size >= 2 * found[0][0].size else []
    return found[0] if found else None


def _source(value: Value, provenance: Provenance) -> str | None:
    """Name of the largest argument behind a matrix that depends on parameters alone, or None."""
    if len(value.shape) < 2 or value.op is None:
        return None
    largest: tuple[int, str] = (0, "")
    stack, seen = [value], {id(value)}
    while stack:
        top = stack.pop()
        name = provenance.argument_name(top)
        if name is not None:
            largest = max(largest, (top.size, name))
            continue
        op = top.op
        if op is None:
            carried = top.block is not None and top.block.owner is not None
            if not (provenance.is_weight(top) and top.size > 1) and not (carried and top.size == 1):
                return None  # state: a position, tokens, what a loop carries
            continue
        if op.name in ("constant", "iota"):
            continue
        if len(seen) > _MAX_VISITED or not _keeps_weights(op):
            return None
        fresh = [v for v in _inputs(op) if id(v) not in seen]
        seen |= {id(v) for v in fresh}
        stack += fresh
    # An operand much larger than anything behind it is a mask or a table, not a weight.
    return largest[1] if largest[0] * 8 >= value.size else None


def _keeps_weights(op: Op) -> bool:
    """Whether an operation on parameters may make a weight of them, and not an activation."""
    if op.name == "dot_general":  # two factors multiplied out, as an adapter is merged; not an input times a weight
        return op.result.size >= max(operand.size for operand in op.operands)
    if op.name == "gather" and op.operands[1].size > 1:  # rows put in another order, or a codebook; not a lookup
        return op.result.size * 2 >= op.operands[0].size
    return op.name in OPERATIONS or op.name in LAYOUT or op.name in _JOINING


def _inputs(op: Op) -> tuple[Value, ...]:
    return op.operands[:1] if op.name in ("dynamic_slice", "gather") else op.operands
