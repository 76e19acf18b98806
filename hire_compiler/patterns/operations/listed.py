"""Lists of tokens: a gather that picks columns of logits, where the program then chooses among what it picked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from hire_compiler import _mlir
from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.approximate import APPROXIMATE
from hire_compiler.patterns.operations.reducers import position_of, reducer

_STEPS = 200


@dataclass(frozen=True)
class Listed:
    """How a gather picks a list of columns for each batch row.

    Attributes:
      axis: the dimension of the list in its result; the others are the batch, in the order of its operand's.
      named: dimensions of the operand whose places are indices too, and the dimensions of the result that should count
        them.
    """

    axis: int
    named: tuple[tuple[int, int], ...]


def listed(op: Op, axis: int) -> Listed | None:
    """How a gather picks columns along ``axis`` of its operand; None if it does anything else."""
    numbers, sizes, shape = _mlir.gather_numbers(op.ir), op.ints("slice_sizes"), op.operands[0].shape
    if axis not in numbers.start_index_map or axis not in numbers.collapsed_slice_dims:
        return None
    vector = _mlir.gather_vector(op.ir)
    open_ = [dim for dim in range(len(op.result.shape)) if dim not in numbers.offset_dims]  # those of the indices
    picked = list(open_)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    offsets = dict(zip([dim for dim in range(len(shape)) if dim not in gone], numbers.offset_dims, strict=True))
    places: dict[int, int] = {}
    for dim, own in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        places[dim] = picked[own - (vector < own)]
        open_.remove(places[dim])
    for dim, at in offsets.items():
        if sizes[dim] != shape[dim]:
            return None
        places[dim] = at
    named = []
    for dim, size in enumerate(shape):
        if dim == axis or dim in places:
            continue
        if size > 1 and (not open_ or op.result.shape[open_[0]] != size):
            return None
        if size > 1:
            places[dim] = open_.pop(0)
            named.append((dim, places[dim]))
    wide = [dim for dim in open_ if op.result.shape[dim] > 1]
    order = [places[dim] for dim in sorted(places)]
    if len(wide) != 1 or order != sorted(order):
        return None
    whole = prod(op.result.shape) == prod(shape) // shape[axis] * op.result.shape[wide[0]]
    return Listed(wide[0], tuple(named)) if whole else None


def picks(op: Op) -> tuple[object, ...]:
    """How a gather picks from its operand at its indices: alike for gathers that pick the same."""
    return _mlir.gather_numbers(op.ir), _mlir.gather_vector(op.ir), op.ints("slice_sizes")


def is_chosen_from(value: Value, axis: int) -> bool:
    """Whether the best along a dimension of a value is looked for, behind elementwise code and layout."""
    queue, seen = [(value, axis)], {id(value)}
    while queue and len(seen) < _STEPS:
        at, dim = queue.pop()
        for op, position in at.uses:
            if _looks_for_the_best(op, dim):
                return True
            for made, moved in _onwards(op, position, dim):
                if id(made) not in seen:
                    seen.add(id(made))
                    queue.append((made, moved))
    return False


def _looks_for_the_best(op: Op, axis: int) -> bool:
    if op.name == "reduce":
        extreme = position_of(op) is not None or reducer(op) in ("maximum", "minimum")
        return extreme and op.ints("dimensions") == (axis,)
    if op.name == "sort":
        return op.int("dimension") == axis
    return op.name in ("chlo.top_k", APPROXIMATE) and axis == len(op.operands[0].shape) - 1


def _onwards(op: Op, position: int, axis: int) -> Iterator[tuple[Value, int]]:
    """What an operation makes of a value, and where a dimension of that is then."""
    of_rows = op.name == "slice" and op.result.shape[axis] == op.operands[0].shape[axis]
    if op.name in OPERATIONS or of_rows:
        yield op.result, axis
    elif op.name == "transpose":
        yield op.result, op.ints("permutation").index(axis)
    elif op.name == "broadcast_in_dim":
        yield op.result, op.ints("broadcast_dimensions")[axis]
    elif op.name == "reverse" or (op.name == "scatter" and position == 0):
        yield op.result, axis
    elif op.name == "reshape":
        before, after = op.operands[0].shape, op.result.shape
        for dim, size in enumerate(after):
            if size == before[axis] and prod(after[:dim]) == prod(before[:axis]):
                yield op.result, dim
                return
        for dim, size in enumerate(after):  # beams, one behind the other
            if size % before[axis] == 0 and prod(after[:dim]) * (size // before[axis]) == prod(before[:axis]):
                yield op.result, dim
                return
