"""Batch rows that a gather names beside its columns: ``logits[arange(batch)[:, None], ids]``.

Whether each batch row reads of its own logits is known where the names follow from constants alone.
"""

from __future__ import annotations

import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.loop_counters import LoopCounters


def counts_rows(op: Op, axis: int) -> bool:
    """Whether the rows that a gather names beside columns along ``axis``, if it names any, count up by one."""
    numbers, shape, vector = _mlir.gather_numbers(op.ir), op.operands[0].shape, _mlir.gather_vector(op.ir)
    named = [dim for dim in numbers.start_index_map if dim != axis and shape[dim] > 1]
    return all(_counts(op.operands[1], vector, numbers.start_index_map.index(dim), shape[dim]) for dim in named)


def _counts(index: Value, vector: int, part: int, size: int) -> bool:
    """Whether a part of some indices counts up along the first dimension that is so long, and no other moves it."""
    value, at = index, part
    while value.op is not None and value.op.name == "concatenate" and value.op.int("dimension") == vector:
        value, at = _holding(value.op, vector, at)
    along = next((dim for dim, length in enumerate(value.shape) if length == size and dim != vector), None)
    while value.op is not None and value.op.name == "broadcast_in_dim" and along is not None:
        dims, inner = value.op.ints("broadcast_dimensions"), value.op.operands[0]
        if vector in dims and inner.shape[dims.index(vector)] > 1:
            break
        along = dims.index(along) if along in dims and inner.shape[dims.index(along)] == size else None
        vector, at, value = (dims.index(vector) if vector in dims else len(inner.shape)), 0, inner
    array = None if along is None else LoopCounters().array(value)
    if array is None or along is None:
        return False
    array = array if vector >= array.ndim else array.take([at], axis=vector)
    return bool((np.moveaxis(array, along, -1) == np.arange(size)).all())


def _holding(op: Op, dim: int, at: int) -> tuple[Value, int]:
    """Which operand of a concatenate holds a place, and where."""
    for operand in op.operands[:-1]:
        if at < operand.shape[dim]:
            return operand, at
        at -= operand.shape[dim]
    return op.operands[-1], at
