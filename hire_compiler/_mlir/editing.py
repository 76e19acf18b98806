"""Edits that a graph of plain objects cannot express: loops with other carries, products in place of operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler._mlir.attributes import integer, integers, make_tensor_type, tensor_type
from hire_compiler._mlir.functions import emit, holder


def rebuild_while(loop: Any, keep: Sequence[int], added: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
    """Replace a ``stablehlo.while`` by one that keeps only some carries and has new ones appended.

    Args:
      loop: the loop; erased. Uses of dropped carries must be gone from its body and its results.
      keep: indices of the carries that stay, in order.
      added: initial values of the appended carries, which the body for now returns unchanged.

    Returns:
      The new loop and the block arguments of the appended carries inside its body.
    """
    initial = [loop.operands[i] for i in keep] + list(added)
    types = [value.type for value in initial]
    with ir.InsertionPoint(loop):
        new = ir.Operation.create("stablehlo.while", results=types, operands=initial, regions=2, loc=loop.location)
    for old_region, new_region in zip(loop.regions, new.regions, strict=True):
        _move_block(old_region.blocks[0], new_region.blocks.append(*types), keep)
    body = new.regions[1].blocks[0]
    carried = [body.arguments[len(keep) + j] for j in range(len(added))]
    terminator = list(body.operations)[-1].operation
    returned = [terminator.operands[i] for i in keep] + carried
    with ir.InsertionPoint(terminator):
        ir.Operation.create("stablehlo.return", operands=returned, loc=terminator.location)
    terminator.erase()
    for position, index in enumerate(keep):
        loop.results[index].replace_all_uses_with(new.results[position])
    loop.erase()
    return new, carried


def _move_block(old: Any, new: Any, keep: Sequence[int]) -> None:
    for position, index in enumerate(keep):
        old.arguments[index].replace_all_uses_with(new.arguments[position])
    for op in list(old.operations):
        new.append(op)


@dataclass(frozen=True)
class PointwiseWindow:
    """The dimensions of a convolution that is a matrix product at every position.

    Attributes:
      input, output: a name for every dimension: ``b`` batch, ``f`` features, ``0``, ``1`` … positions.
      kernel: likewise, ``i`` and ``o`` for its features.
    """

    input: tuple[str, ...]
    kernel: tuple[str, ...]
    output: tuple[str, ...]


def held(value: Any) -> Any:
    """A value that the compiler computes as it is written, at the current insertion point, whoever reads it."""
    return emit("stablehlo.optimization_barrier", value.type, [value])


def widened_and_back(op: Any, position: int, dtype: str) -> Any:
    """Let an operation read an operand that was widened and narrowed again: the wide one."""
    value = op.operands[position]
    shape = ir.RankedTensorType(value.type).shape
    with ir.InsertionPoint(op), op.location:
        wide = emit("stablehlo.convert", make_tensor_type(shape, dtype), [value])
        op.operands[position] = emit("stablehlo.convert", value.type, [wide])
    return wide


def replace_uses_outside(old: Any, new: Any, operations: Sequence[Any]) -> None:
    """Let everything read another value, but for some operations and what stands in them."""
    block, left = old.owner.operation.block, {op.results[0] for op in operations if len(op.results)}
    for use in list(old.uses):
        top = holder(use.owner.operation, block)
        if not len(top.results) or top.results[0] not in left:
            use.owner.operands[use.operand_number] = new


def pointwise_window(op: Any) -> PointwiseWindow | None:
    """The dimensions of a ``convolution`` whose window is one element; None for any other."""
    dims = hlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    kernel_shape, _ = tensor_type(op.operands[1].type)
    positions = tuple(dims.kernel_spatial_dimensions)
    groups = integer(op, "feature_group_count") * integer(op, "batch_group_count")
    if groups != 1 or any(kernel_shape[i] != 1 for i in positions):
        return None
    ones = ("window_strides", "lhs_dilation")
    if any(name in op.attributes and set(integers(op, name)) - {1} for name in ones):
        return None
    if "padding" in op.attributes and any(int(n) for n in ir.DenseIntElementsAttr(op.attributes["padding"])):
        return None
    given = (dims.input_batch_dimension, dims.input_feature_dimension, tuple(dims.input_spatial_dimensions))
    made = (dims.output_batch_dimension, dims.output_feature_dimension, tuple(dims.output_spatial_dimensions))
    return PointwiseWindow(
        _named(("b", "f"), *given),
        _named(("i", "o"), dims.kernel_input_feature_dimension, dims.kernel_output_feature_dimension, positions),
        _named(("b", "f"), *made),
    )


def _named(names: tuple[str, str], first: int, second: int, positions: tuple[int, ...]) -> tuple[str, ...]:
    named = {first: names[0], second: names[1]} | {at: str(i) for i, at in enumerate(positions)}
    return tuple(named[i] for i in range(len(named)))


def replace_by_dot(op: Any, left: Sequence[int], right: Sequence[int], order: Sequence[int] | None = None) -> None:
    """Replace a product by a ``dot_general`` over the contracting dimensions, reshaped to the result it had.

    Args:
      op: an operation with two operands; erased.
      left, right: contracting dimensions of the operands. What else the operands have is in the product, of which
        dimensions of size 1 may be dropped and added freely.
      order: how the product, its dimensions of size 1 that come from the right operand dropped, is transposed.
    """
    (left_shape, _), (right_shape, _) = (tensor_type(operand.type) for operand in op.operands)
    shape, dtype = tensor_type(op.results[0].type)
    numbers = hlo.DotDimensionNumbers.get([], [], list(left), list(right))
    product = [n for i, n in enumerate(left_shape) if i not in left]
    beside = [n for i, n in enumerate(right_shape) if i not in right]
    attributes = {"dot_dimension_numbers": numbers}
    if "precision_config" in op.attributes:
        attributes["precision_config"] = op.attributes["precision_config"]

    with ir.InsertionPoint(op), op.location:
        types = make_tensor_type([*product, *beside], dtype)
        value = emit("stablehlo.dot_general", types, list(op.operands), **attributes)
        if order is not None:
            features = int(np.prod(beside))
            value = emit("stablehlo.reshape", make_tensor_type([*product, features], dtype), [value])
            turned = make_tensor_type([[*product, features][i] for i in order], dtype)
            permutation = ir.DenseI64ArrayAttr.get(list(order))
            value = emit("stablehlo.transpose", turned, [value], permutation=permutation)
        value = emit("stablehlo.reshape", op.results[0].type, [value])
    assert int(np.prod(shape)) == int(np.prod([*product, *beside]))
    op.results[0].replace_all_uses_with(value)
    op.erase()
