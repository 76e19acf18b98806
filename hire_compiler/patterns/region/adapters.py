"""Low-rank adapters beside the first products of a block (LoRA): their part is given, the block is a site all the same.

::

    x ── dot(w_up) ──────────────── + ── act ── h ── dot(w_down) ──
    x ── dot(a) ── dot(b) [· scale] ┘            one adapter, or one for each request (b is looked up)

What an adapter adds is a value of the author's program with one number for each neuron of each batch row. It is
computed whole, as the author wrote it, which costs a small share of the weight beside it; a rewrite takes the numbers
of the neurons that it chooses.
"""

from __future__ import annotations

from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import SUPPORTED, WeightDot, contracted_size, read_weight_dot
from hire_compiler.patterns.weights.provenance import Provenance

_NARROWER = 4  # an adapter contracts at most this part of what the weight beside it does
_WIDEST = 512  # ranks above are no adapter's
_STEPS = 8
_SCALING = frozenset({*LAYOUT, "convert", "multiply", "divide"})


def is_adapter(op: Op, provenance: Provenance) -> bool:
    """Whether a product is the second one of an adapter: of a small rank, and added to another product."""
    rank = contracted_size(op)
    if op.result.dtype not in SUPPORTED or rank > _WIDEST or op.result.size == 0:
        return False
    if not any(provenance.is_weight(v) or provenance.sources.weight(v) is not None for v in op.operands):
        return False
    first = [made for v in op.operands if (made := _product_behind(v)) is not None]
    return any(contracted_size(made) >= _NARROWER * rank for made in first) and _is_added_to_product(op)


def is_narrow(value: Value, dot: WeightDot) -> bool:
    """Whether a given value is an adapter's beside a product: made by contracting much fewer numbers."""
    op = _product_behind(value)
    return op is not None and contracted_size(op) * _NARROWER <= dot.d


def adapters_beside(down: WeightDot, provenance: Provenance) -> tuple[WeightDot, ...]:
    """The products of the same input beside a block's last one that are as narrow as an adapter's, and read after it.

    ::

        h ── dot(w_down) ──────────── + ──
        h ── dot(a) ── dot(b) [· scale] ┘
    """
    found: list[WeightDot] = []
    for op, _ in down.x.uses:
        if (
            op is down.op
            or op.name != "dot_general"
            or op.block is not down.op.block
            or op in {dot.op for dot in found}
        ):
            continue
        try:
            dot = read_weight_dot(op, provenance)
        except NoMatch:
            continue
        later = all(reader.block is op.block and reader.position > down.op.position for reader, _ in op.result.uses)
        if later and _is_alike(dot, down) and dot.rows <= min(_WIDEST, down.rows // _NARROWER):
            found.append(dot)
    return tuple(found)


def _is_alike(dot: WeightDot, down: WeightDot) -> bool:
    """Whether two products read the same rows of one value, and are computed alike."""
    same_input = dot.x is down.x and dot.x_contracting == down.x_contracting and dot.layer is down.layer
    alike = dot.precise == down.precise and dot.result.dtype == down.result.dtype
    return same_input and alike and dot.weight.layers == down.weight.layers


def _product_behind(value: Value) -> Op | None:
    """The product of which a value is a layout or a multiple."""
    stack = [(value, 0)]
    while stack:
        top, steps = stack.pop()
        if top.op is None or steps > _STEPS:
            continue
        if top.op.name == "dot_general":
            return top.op
        if top.op.name in _SCALING:
            stack += [(operand, steps + 1) for operand in top.op.operands]
    return None


def _is_added_to_product(op: Op) -> bool:
    value = op.result
    for _ in range(_STEPS):
        adding = [(reader, at) for reader, at in value.uses if reader.name == "add"]
        if any(_has_product(reader.operands[1 - at]) for reader, at in adding):
            return True
        onwards = [reader for reader, _ in value.uses if reader.name in _SCALING]
        if not onwards:
            return False
        value = onwards[0].result
    return False


def _has_product(value: Value) -> bool:
    """Whether a value is a product, or the sum of one and of others."""
    stack, steps = [value], 0
    while stack and steps < 4 * _STEPS:
        steps += 1
        op = stack.pop().op
        if op is None:
            continue
        if op.name == "dot_general":
            return True
        if op.name in _SCALING or op.name in ("add", "concatenate"):
            stack += op.operands
    return False
