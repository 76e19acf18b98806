"""What an argmax takes the best of, in the form that is taken apart: padding as a part, and no transposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import integers, make_tensor_type, tensor_type
from hire_compiler._mlir.best_of_parts import counts, joined_by, like, number, resized
from hire_compiler._mlir.functions import emit


def padding_as_part(op: Any, is_elementwise: Callable[[str], bool]) -> bool:
    """Let an argmax over padded numbers be one over these, with the padding beside them; whether it is one."""
    joined = joined_by(op, is_elementwise, _is_padding)
    if joined is None:
        return False
    (axis,), pad = integers(op, "dimensions"), joined.join
    value, filler = pad.operands
    with ir.InsertionPoint(pad), pad.location:
        ends = [integers(pad, name)[axis] for name in ("edge_padding_low", "edge_padding_high")]
        before, after = ([_filled_with(filler, resized(value.type, axis, n))] if n else [] for n in ends)
        dimension = number(axis)
        together = emit("stablehlo.concatenate", pad.results[0].type, [*before, value, *after], dimension=dimension)
    pad.results[0].replace_all_uses_with(together)
    pad.erase()
    return True


def _is_padding(made: Any, axis: int) -> bool:
    """Whether numbers are put before or behind others along one dimension, and nothing else is done."""
    if made.name != "stablehlo.pad":
        return False
    ends = [integers(made, name) for name in ("edge_padding_low", "edge_padding_high")]
    elsewhere = [n for end in ends for i, n in enumerate(end) if i != axis]
    return not any((*elsewhere, *integers(made, "interior_padding"))) and all(end[axis] >= 0 for end in ends)


def _filled_with(filler: Any, type_: Any) -> Any:
    return emit("stablehlo.broadcast_in_dim", type_, [filler], broadcast_dimensions=ir.DenseI64ArrayAttr.get([]))


def turn_reduction(op: Any) -> bool:
    """Let an argmax of a transposed value be one of the value, and its results be transposed; whether it is one."""
    made = None if isinstance(op.operands[0].owner, ir.Block) else op.operands[0].owner
    dims = integers(op, "dimensions")
    if made is None or made.name != "stablehlo.transpose" or len(dims) != 1 or not counts(op.operands[1], dims[0]):
        return False
    permutation = integers(made, "permutation")
    value, axis = made.operands[0], permutation[dims[0]]
    kept = [i for i in permutation if i != axis]
    shape, _ = tensor_type(value.type)
    left = [i for i in range(len(shape)) if i != axis]
    with ir.InsertionPoint(op), op.location:
        counted = emit("stablehlo.iota", like(value, op.operands[1]), [], iota_dimension=number(axis))
        model = op.clone()
        new = ir.Operation.create(
            op.name,
            results=[make_tensor_type([shape[i] for i in left], tensor_type(r.type)[1]) for r in op.results],
            operands=[value, counted, *list(op.operands)[2:]],
            attributes={**dict(op.attributes.items()), "dimensions": ir.DenseI64ArrayAttr.get([axis])},
            regions=1,
        )
        model.regions[0].blocks[0].append_to(new.regions[0])
        model.erase()
        order = ir.DenseI64ArrayAttr.get([left.index(i) for i in kept])
        for old, found in zip(op.results, new.results, strict=True):
            turned = found if kept == left else emit("stablehlo.transpose", old.type, [found], permutation=order)
            old.replace_all_uses_with(turned)
    op.erase()
    return True


__all__ = ["padding_as_part", "turn_reduction"]
