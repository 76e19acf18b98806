"""Products whose rows lie in several dimensions become products with one dimension of rows, and a reshape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler._mlir.attributes import dot_dimensions, integers, make_tensor_type, tensor_type
from hire_compiler._mlir.functions import emit, splat_again

_STEPS = 64
_SEEN_THROUGH = frozenset({
    "stablehlo.reshape", "stablehlo.transpose", "stablehlo.slice", "stablehlo.concatenate", "stablehlo.pad",
})  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """Where the rows of a product lie.

    Attributes:
      operand: the number of the one that is the matrix.
      matrix: this, or what it was before it was transposed.
      contracted: dimensions of it that the product contracts.
      first: its first dimension of rows; ``count``: how many follow each other.
    """

    operand: int
    matrix: Any
    contracted: tuple[int, ...]
    first: int
    count: int


def flatten_rows(op: Any, is_elementwise: Callable[[str], bool]) -> int:
    """Flatten the rows of the products whose numbers an operation chooses among; of how many.

    XLA multiplies with one dimension of rows whatever is written, so no sum is taken otherwise.

    Args:
      op: its first operand is what it chooses among; rebuilt where that is transposed.
      is_elementwise: whether an operation of a name computes each number from those at the same place.
    """
    found = 0
    for dot in _products(op.operands[0], is_elementwise):
        rows = _rows(dot)
        if rows is not None:
            _flatten(dot, rows, is_elementwise)
            found += 1
    return found


def _products(value: Any, is_elementwise: Callable[[str], bool]) -> list[Any]:
    """The products from which a value is made number by number."""
    stack, seen, found = [value], 0, list[Any]()
    while stack and seen < _STEPS:
        seen += 1
        made = stack.pop().owner
        if isinstance(made, ir.Block):
            continue
        if made.name == "stablehlo.dot_general" and made not in found:
            found.append(made)
        elif made.name in _SEEN_THROUGH or is_elementwise(made.name):
            stack += made.operands
    return found


def _rows(dot: Any) -> _Rows | None:
    """The rows of the larger operand, where they lie in several dimensions beside each other."""
    left_batch, _, *contracted = dot_dimensions(dot)
    shapes = [tensor_type(v.type)[0] for v in dot.operands]
    if left_batch or any(n <= 0 for shape in shapes for n in shape):
        return None
    operand = 0 if prod(shapes[0]) > prod(shapes[1]) else 1
    matrix, dims = _before_transposition(dot.operands[operand])
    free = [dims[i] for i in range(len(dims)) if i not in contracted[operand]]
    if len(free) < 2 or free != list(range(free[0], free[0] + len(free))):
        return None
    return _Rows(operand, matrix, tuple(dims[i] for i in contracted[operand]), free[0], len(free))


def _before_transposition(value: Any) -> tuple[Any, tuple[int, ...]]:
    """What was transposed, and which of its dimensions each one is."""
    made = None if isinstance(value.owner, ir.Block) else value.owner
    if made is None or made.name != "stablehlo.transpose":
        return value, tuple(range(len(tensor_type(value.type)[0])))
    return made.operands[0], integers(made, "permutation")


def _flatten(dot: Any, rows: _Rows, is_elementwise: Callable[[str], bool]) -> None:
    _, _, *contracted = dot_dimensions(dot)
    shape, dtype = tensor_type(rows.matrix.type)
    own = shape[rows.first : rows.first + rows.count]
    others, made = _kept(dot, 1 - rows.operand), tensor_type(dot.results[0].type)[1]
    merged = (*shape[: rows.first], prod(own), *shape[rows.first + rows.count :])
    contracted[rows.operand] = tuple(i if i < rows.first else i - rows.count + 1 for i in rows.contracted)
    numbers = hlo.DotDimensionNumbers.get([], [], list(contracted[0]), list(contracted[1]))
    with ir.InsertionPoint(dot), dot.location:
        operands = list(dot.operands)
        operands[rows.operand] = emit("stablehlo.reshape", make_tensor_type(merged, dtype), [rows.matrix])
        attributes = {**dict(dot.attributes.items()), "dot_dimension_numbers": numbers}
        is_first = rows.operand == 0
        flat_shape = (prod(own), *others) if is_first else (*others, prod(own))
        flat = emit(dot.name, make_tensor_type(flat_shape, made), operands, **attributes)
        if is_first:  # the rows go last, where what chooses among them looks for them
            flat = _transposed(flat, (*range(1, len(flat_shape)), 0))
        split = emit("stablehlo.reshape", make_tensor_type((*others, *own), made), [flat])
        places = len(others)
        back = (*range(places, places + len(own)), *range(places))
        result = _transposed(split, back) if is_first and places else split
    dot.results[0].replace_all_uses_with(result)
    dot.erase()
    _turn_back(result, split)
    _move_down(split, flat, is_elementwise)


def _kept(dot: Any, operand: int) -> tuple[int, ...]:
    contracted = dot_dimensions(dot)[2 + operand]
    shape, _ = tensor_type(dot.operands[operand].type)
    return tuple(n for i, n in enumerate(shape) if i not in contracted)


def _transposed(value: Any, permutation: Sequence[int]) -> Any:
    shape, dtype = tensor_type(value.type)
    if list(permutation) == list(range(len(shape))):
        return value
    type_ = make_tensor_type([shape[i] for i in permutation], dtype)
    return emit("stablehlo.transpose", type_, [value], permutation=ir.DenseI64ArrayAttr.get(list(permutation)))


def _turn_back(turned: Any, straight: Any) -> None:
    """Let what transposes a transposed value once more transpose the value itself, or read it as it is."""
    if turned == straight:
        return
    before = integers(turned.owner, "permutation")
    for user in _users(turned):
        if user.name != "stablehlo.transpose":
            continue
        with ir.InsertionPoint(user), user.location:
            new = _transposed(straight, [before[i] for i in integers(user, "permutation")])
        user.results[0].replace_all_uses_with(new)


def _move_down(split: Any, flat: Any, is_elementwise: Callable[[str], bool]) -> None:
    """Let what reads a reshaped value number by number, or reshapes it again, read the value itself."""
    for user in _users(split):
        if not any(True for _ in user.results[0].uses):
            continue  # seen before
        if user.name == "stablehlo.reshape":
            user.operands[0] = flat
            if user.results[0].type == flat.type:
                user.results[0].replace_all_uses_with(flat)
        elif is_elementwise(user.name) and _is_plain(user):
            _move_past(user, split, flat, is_elementwise)


def _is_plain(op: Any) -> bool:
    """Whether all operands have the shape of the result, or none."""
    shape, _ = tensor_type(op.results[0].type)
    return len(op.results) == 1 and all(tensor_type(v.type)[0] in (shape, ()) for v in op.operands)


def _move_past(user: Any, split: Any, flat: Any, is_elementwise: Callable[[str], bool]) -> None:
    with ir.InsertionPoint(user), user.location:
        operands = [flat if v == split else _flattened(v, flat) for v in user.operands]
        type_ = user.results[0].type
        made = make_tensor_type(tensor_type(flat.type)[0], tensor_type(type_)[1])
        new = emit(user.name, made, operands, **dict(user.attributes.items()))
        again = emit("stablehlo.reshape", type_, [new])
    user.results[0].replace_all_uses_with(again)
    _move_down(again, new, is_elementwise)


def _flattened(value: Any, flat: Any) -> Any:
    """Another operand in the shape of the flat value, at the current insertion point."""
    shape, dtype = tensor_type(value.type)
    if not shape:
        return value
    type_ = make_tensor_type(tensor_type(flat.type)[0], dtype)
    made = None if isinstance(value.owner, ir.Block) else value.owner
    if made is not None and made.name == "stablehlo.constant" and getattr(made.attributes["value"], "is_splat", False):
        return splat_again(made, type_)
    if made is not None and made.name == "stablehlo.broadcast_in_dim" and not integers(made, "broadcast_dimensions"):
        return emit(made.name, type_, list(made.operands), **dict(made.attributes.items()))
    return emit("stablehlo.reshape", type_, [value])


def _users(value: Any) -> list[Any]:
    found: list[Any] = []
    for use in value.uses:
        op = use.owner.operation if hasattr(use.owner, "operation") else use.owner
        if op not in found:
            found.append(op)
    return found


__all__ = ["flatten_rows"]
