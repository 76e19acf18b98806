"""What an ``ApproxTopK`` says of itself: JAX's ``approx_max_k`` and ``approx_min_k``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.functions import find_function


@dataclass(frozen=True)
class ApproximateTopK:
    """How an approximate top-k is asked for.

    Attributes:
      axis: along which dimension.
      sorts: the platform is told to sort instead, which approximates nothing.
      comparator: the body by which it compares.
    """

    axis: int
    sorts: bool
    comparator: Any


def approximate_top_k(op: Any) -> ApproximateTopK | None:
    """How an ``ApproxTopK`` is asked for; None where it is written in a way that is not known."""
    options, named = (op.attributes.get(name) for name in ("mhlo.backend_config", "called_computations"))
    if not isinstance(options, ir.DictAttr) or "reduction_dim" not in options or named is None or len(named) != 1:
        return None
    sorts = "is_fallback" in options and bool(ir.BoolAttr(options["is_fallback"]).value)
    comparator = _body(op, ir.FlatSymbolRefAttr(named[0]).value)
    if comparator is None:
        return None
    return ApproximateTopK(int(ir.IntegerAttr(options["reduction_dim"]).value), sorts, comparator)


def _body(op: Any, name: str) -> Any | None:
    """The only block of a function of the module that an operation stands in."""
    module = op
    while module.parent is not None:
        module = module.parent
    function = find_function(module.opview, name)
    return None if function is None else function.operation.regions[0].blocks[0]
