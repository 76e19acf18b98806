"""How a quantised weight is stored, and where its scale stands."""

from __future__ import annotations

import re
from math import prod

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.weights.sources import Source

_NARROW = re.compile(r"u?i(nt)?[248]$|f(loat)?[468](_|E|e|$)")
_PACKED = ("int16", "uint16", "int32", "uint32", "int64", "uint64")
_STEPS = 12


def storage(dtype: str) -> str:
    """How a quantised weight is called by its type: ``int8``, ``int32, packed``; '' for what is none."""
    if _NARROW.match(dtype):
        return dtype
    return f"{dtype}, packed" if dtype in _PACKED else ""


def scale_of(op: Op, operand: Value, source: Source) -> str:
    """Over what the scale of a quantised weight goes: ``, scale per channel``; '' if none was found.

    It may stand on the weight before the product, or on the product's result.
    """
    if op.name != "dot_general":
        return ""
    _, _, left, right = _mlir.dot_dimensions(op.ir)
    contracted = prod(operand.shape[i] for i in (left if operand is op.operands[0] else right))
    free = operand.size // max(contracted, 1)
    before = None if source.scaled is None else prod(source.scaled)
    size = before if before is not None else _scale_behind(op, free)
    if size is None:
        return ""
    if size == 1:
        return ", one scale"
    if size == free:
        return ", scale per channel"
    if size == contracted:
        return ", scale per input"
    if free and size % free == 0 and (contracted * free) % size == 0:
        return f", scale per block of {contracted * free // size}"
    return ""


def _scale_behind(op: Op, free: int) -> int | None:
    """The size of what multiplies a product's result, one number per column or one alone."""
    value, sizes = op.result, set()
    for _ in range(_STEPS):
        if len(value.uses) != 1:
            break
        reader, position = value.uses[0]
        if reader.name in ("multiply", "divide"):
            other = reader.operands[1 - position]
            while other.op is not None and other.op.name in ("broadcast_in_dim", "reshape", "convert"):
                other = other.op.operands[0]
            sizes.add(other.size)
        elif reader.name not in ("convert", "reshape", "transpose"):
            break
        value = reader.result
    return free if free in sizes else 1 if 1 in sizes else None
