"""Bring a number out of the loops and branches that it is made in: loops add it up, branches not taken give zero."""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import make_tensor_type, tensor_type
from hire_compiler._mlir.editing import rebuild_while
from hire_compiler._mlir.functions import append_result, emit, filled

_BRANCHES = ("stablehlo.case", "stablehlo.if")


def carry_out(value: Any, block: Any) -> Any | None:
    """A value of ``block`` that sums up what ``value`` was, every time that it was computed.

    Args:
      value: made in a block inside ``block``: a number or whole numbers, added up; or two floats, of which the
        second is a maximum.
      block: where the sum is wanted. Loops and branches on the way are replaced by others with one more result.

    Returns:
      None if something else than a loop's body or a branch stands between.
    """
    if not _can_leave(block_of(value), block):
        return None
    while (inner := block_of(value)) != block:
        outer = inner.owner.operation
        value = _out_of_loop(value, outer) if outer.name == "stablehlo.while" else _out_of_branch(value, inner, outer)
    return value


def block_of(value: Any) -> Any:
    """The block of the operation that computes a value."""
    return value.owner.operation.block


def one_in(block: Any) -> Any:
    """The integer 1, computed every time that ``block`` runs."""
    return _filled_in(block, make_tensor_type((), "int32"), 1)


def _can_leave(inner: Any, outer: Any) -> bool:
    while inner != outer:
        owner = inner.owner.operation
        is_body = owner.name == "stablehlo.while" and owner.regions[1].blocks[0] == inner
        if not is_body and owner.name not in _BRANCHES:
            return False
        inner = owner.block
    return True


def _out_of_loop(value: Any, loop: Any) -> Any:
    with ir.InsertionPoint(loop), loop.location:
        zero = filled(value.type, 0)
    new, (carried,) = rebuild_while(loop, range(len(loop.operands)), [zero])
    terminator = list(new.regions[1].blocks[0].operations)[-1].operation
    with ir.InsertionPoint(terminator), terminator.location:
        total = _together(carried, value)
    terminator.operands[len(terminator.operands) - 1] = total
    return new.results[len(new.results) - 1]


def _out_of_branch(value: Any, block: Any, op: Any) -> Any:
    types = [*(result.type for result in op.results), value.type]
    with ir.InsertionPoint(op):
        new = ir.Operation.create(
            op.name, results=types, operands=list(op.operands), regions=len(op.regions), loc=op.location
        )
    for old, region in zip(op.regions, new.regions, strict=True):
        moved = old.blocks[0]
        is_taken = moved == block
        moved.append_to(region)
        inner = region.blocks[0]
        append_result(inner, value if is_taken else _filled_in(inner, value.type, 0))
    for position, result in enumerate(op.results):
        result.replace_all_uses_with(new.results[position])
    op.erase()
    return new.results[len(types) - 1]


def _filled_in(block: Any, type_: Any, number: int) -> Any:
    with ir.InsertionPoint.at_block_begin(block), ir.Location.unknown():
        return filled(type_, number)


def _together(total: Any, value: Any) -> Any:
    """Numbers are added; of two floats, the second is a maximum."""
    type_ = value.type
    added = emit("stablehlo.add", type_, [total, value])
    shape, dtype = tensor_type(type_)
    if not shape or dtype.startswith("int"):
        return added
    largest = emit("stablehlo.maximum", type_, [total, value])
    mask = make_tensor_type(shape, "bool")
    chosen = ir.Attribute.parse(f"dense<[true, false]> : {mask}")
    first = emit("stablehlo.constant", mask, [], value=chosen)
    return emit("stablehlo.select", type_, [first, added, largest])
