"""Windows of a tail: running sums."""

from __future__ import annotations

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op
from hire_compiler.tails.layout import LAYOUT


def is_running_sum(op: Op, axis: int) -> bool:
    """Whether a ``reduce_window`` is the sum of all numbers up to each one, along a dimension."""
    shape = op.result.shape
    (only, *_), start = op.blocks[0].ops, op.operands[1]
    while start.op is not None and start.op.name in LAYOUT:
        start = start.op.operands[0]
    zero = None if start.op is None else start.op.constant()
    adds = (
        len(op.blocks[0].ops) == 2
        and only.name == "add"
        and set(map(id, only.operands)) == set(map(id, op.blocks[0].args))
    )
    if not adds or zero is None or zero.any() or op.operands[0].shape != shape:
        return False
    window = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    padding = [[size - 1 if i == axis else 0, 0] for i, size in enumerate(shape)]
    ones = ("window_strides", "base_dilations", "window_dilations")
    plainly = all(set(op.ints(name)) <= {1} for name in ones if name in op.ir.attributes)
    return plainly and op.ints("window_dimensions") == window and _mlir.pairs(op.ir, "padding") == padding
