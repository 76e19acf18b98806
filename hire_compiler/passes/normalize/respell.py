"""Respell: what is a plain operation, written as something else, becomes that operation.

::

    dot_general, batched over dimensions of size 1        vmap over an axis of one: stages, pods, an ensemble of one
    convolution with a window of 1                        nn.Conv(kernel_size=1) as a linear layer
    collective among one device                           code for many devices, run on one

All are exact: a contraction over one element is a product, a window of one element is a contraction, and one device
has nothing to exchange.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hire_compiler import _mlir


def respell(module: Any) -> int:
    """Respell what can be respelled in ``@main``, in place; how many there were."""
    function = _mlir.main_function(module).operation
    dots = [op for op in _mlir.operations_named(function, "stablehlo.dot_general") if _is_batched_over_one(op)]
    for op in dots:
        _unbatch(op)
    convolutions = _mlir.operations_named(function, "stablehlo.convolution")
    pointwise = [(op, window) for op in convolutions if (window := _mlir.pointwise_window(op)) is not None]
    for op, window in pointwise:
        _contract(op, window)
    alone = [op for name in _COLLECTIVES for op in _mlir.operations_named(function, name) if _is_alone(op)]
    for op in alone:
        for result, operand in zip(op.results, op.operands, strict=True):
            result.replace_all_uses_with(operand)
        op.erase()
    return len(dots) + len(pointwise) + len(alone)


_COLLECTIVES = ("stablehlo.all_gather", "stablehlo.all_reduce", "stablehlo.reduce_scatter", "stablehlo.all_to_all")


def _is_alone(op: Any) -> bool:
    groups, _ = _mlir.tensor_type(op.attributes["replica_groups"].type)
    same = [operand.type for operand in op.operands] == [result.type for result in op.results]
    return len(groups) == 2 and groups[1] == 1 and same


def _is_batched_over_one(op: Any) -> bool:
    batch = _mlir.dot_dimensions(op)[0]
    return bool(batch) and prod(_mlir.tensor_type(op.operands[0].type)[0][i] for i in batch) == 1


def _unbatch(op: Any) -> None:
    """Contract the batch dimensions too: over one element that is the same product."""
    left_batch, right_batch, left, right = _mlir.dot_dimensions(op)
    _mlir.replace_by_dot(op, (*left_batch, *left), (*right_batch, *right))


def _contract(op: Any, window: _mlir.PointwiseWindow) -> None:
    """Contract the features; the window's own dimensions, all of size 1, are left in the result and dropped."""
    rank = len(window.output)
    free = [i for i in range(rank) if i != window.input.index("f")]
    # The product's dimensions, named as in the input and with the new features last.
    made = [window.input[i] for i in free] + ["f"]
    order = [made.index(name) for name in window.output]
    contracted = window.input.index("f"), window.kernel.index("i")
    _mlir.replace_by_dot(op, (contracted[0],), (contracted[1],), order)
