"""Padding in front of an argmax becomes a part beside the numbers, which is then taken apart as other parts are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import integers
from hire_compiler._mlir.best_of_parts import joined_by, number, resized
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
