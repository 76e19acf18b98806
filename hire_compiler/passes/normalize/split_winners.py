"""Split winners: one head in several products becomes as many heads, the best of which wins.

::

    argmax(concatenate[x · w, x · w_added])             added tokens
    argmax(all_gather(x · w_of_a_device))               a vocabulary in parts, in a shard_map
    argmax(pad(x · w, −inf))                            a vocabulary filled up to a round number

becomes the best of every part and its place, and the best among these: the same numbers are compared, and of equal ones
the first still wins. Several heads at once become one each:

::

    argmax((x · w).reshape(batch, heads, rows))         in one product: slices of it
    argmax(stack([x · w, x · w_next]))                  in products of their own

Elementwise code on the way (a softcap, a temperature, a mask) is applied to each part.
"""

from __future__ import annotations

from typing import Any

from hire_compiler import _mlir
from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import read_body
from hire_compiler.patterns.operations.reducers import picks_the_first_of_the_largest

_STEPS = 8
_LAYOUT = frozenset({
    "stablehlo.reshape", "stablehlo.transpose", "stablehlo.broadcast_in_dim", "stablehlo.slice",
})  # fmt: skip


def split_winners(module: Any) -> int:
    """Split what can be split in ``@main``, in place; how many there were."""
    function = _mlir.main_function(module).operation
    argmaxes = [op for op in _mlir.operations_named(function, "stablehlo.reduce") if _is_argmax(op)]
    for op in argmaxes:
        _mlir.padding_as_part(op, _is_elementwise)
    ways = _mlir.best_of_parts, _mlir.best_of_each, _mlir.best_of_stacked
    return sum(any(way(op, _is_elementwise, _is_product) for way in ways) for op in argmaxes)


def _is_argmax(op: Any) -> bool:
    """Whether of equal numbers the first wins, as it does between parts."""
    return len(op.operands) == 4 and picks_the_first_of_the_largest(read_body(op.regions[0].blocks[0]))


def _is_elementwise(name: str) -> bool:
    return name.removeprefix("stablehlo.") in OPERATIONS and name != "stablehlo.constant"


def _is_product(value: Any) -> bool:
    """Whether a value is a product, or what becomes of one number by number."""
    stack, steps = [value], 0
    while stack and steps < _STEPS:
        steps += 1
        op = stack.pop().owner
        if isinstance(op, _mlir.ir.Block):
            continue
        if op.name == "stablehlo.dot_general":
            return True
        if op.name in _LAYOUT or _is_elementwise(op.name):
            stack += op.operands
    return False
