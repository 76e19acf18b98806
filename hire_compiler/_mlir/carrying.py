"""Bring a number out of the loops and branches that it is made in: loops add it up, branches not taken give zero."""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import make_tensor_type, tensor_type
from hire_compiler._mlir.editing import rebuild_while

_BRANCHES = ("stablehlo.case", "stablehlo.if")


def carry_out(value: Any, block: Any) -> Any | None:
    """A value of ``block`` that sums up what ``value`` was, every time that it was computed.

    Args:
      value: made in a block inside ``block``: a number, added up; or two ``[2]``, of which the second is a maximum.
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
    type_ = make_tensor_type((), "int32")
    return _filled(type_, 1, ir.InsertionPoint.at_block_begin(block))


def _can_leave(inner: Any, outer: Any) -> bool:
    while inner != outer:
        owner = inner.owner.operation
        is_body = owner.name == "stablehlo.while" and owner.regions[1].blocks[0] == inner
        if not is_body and owner.name not in _BRANCHES:
            return False
        inner = owner.block
    return True


def _out_of_loop(value: Any, loop: Any) -> Any:
    zero = _filled(value.type, 0, ir.InsertionPoint(loop))
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
        _return_more(region.blocks[0], value if is_taken else None, value.type)
    for position, result in enumerate(op.results):
        result.replace_all_uses_with(new.results[position])
    op.erase()
    return new.results[len(types) - 1]


def _return_more(block: Any, value: Any | None, type_: Any) -> None:
    """Let a branch return one more value; zero where there is none."""
    terminator = list(block.operations)[-1].operation
    more = value if value is not None else _filled(type_, 0, ir.InsertionPoint(terminator))
    with ir.InsertionPoint(terminator):
        ir.Operation.create(terminator.name, operands=[*terminator.operands, more], loc=terminator.location)
    terminator.erase()


def _together(total: Any, value: Any) -> Any:
    """A number is added; of two, the second is a maximum."""
    type_ = value.type
    added = _emit("stablehlo.add", [total, value], type_)
    shape, _ = tensor_type(type_)
    if not shape:
        return added
    largest = _emit("stablehlo.maximum", [total, value], type_)
    mask = make_tensor_type(shape, "bool")
    chosen = ir.Attribute.parse(f"dense<[true, false]> : {mask}")
    first = ir.Operation.create("stablehlo.constant", results=[mask], attributes={"value": chosen}).results[0]
    return _emit("stablehlo.select", [first, added, largest], type_)


def _emit(name: str, operands: list[Any], type_: Any) -> Any:
    return ir.Operation.create(name, results=[type_], operands=operands).results[0]


def _filled(type_: Any, number: int, where: Any) -> Any:
    element = ir.RankedTensorType(type_).element_type
    is_integer = isinstance(element, ir.IntegerType)
    one = ir.IntegerAttr.get(element, number) if is_integer else ir.FloatAttr.get(element, float(number))
    dense = ir.DenseElementsAttr.get_splat(type_, one)
    with where, ir.Location.unknown():
        return ir.Operation.create("stablehlo.constant", results=[type_], attributes={"value": dense}).results[0]
