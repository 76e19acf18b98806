"""Fold: what is computed from constants alone is a constant, however it is spelled.

::

    √2 · erf_inv(0.9)        norm.ppf(0.95): comparisons, a logarithm, polynomials        a loop that counts

Elementwise code on constants is read as it stands. Anything else (loops, tables, special functions) is evaluated,
where it ends in one number, by XLA itself, which folds it in the author's program too: so the number is the author's.
Only the picture of the program learns of it; the module stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import Block, Graph, Op, Value, read_graph

_SPREADING = frozenset({"broadcast_in_dim", "reshape", "transpose"})
_PLAIN = OPERATIONS | _SPREADING  # read as they are
_FOLDABLE = _PLAIN | {
    "iota", "concatenate", "pad", "reduce", "reduce_window", "dot_general", "gather", "scatter", "while", "case", "if",
    "return", "slice", "dynamic_slice", "dynamic_update_slice", "reverse", "sort", "bitcast_convert", "xor",
    "shift_left", "shift_right_logical", "shift_right_arithmetic", "popcnt", "count_leading_zeros", "convolution",
    "clamp", "composite@chlo.erf_inv",
}  # fmt: skip
_MOST_OPERATIONS = 2000
_MOST_ELEMENTS = 1 << 22


def folded_graph(module: Any) -> Graph:
    """The graph of a normalized module, with the numbers in it that follow from constants."""
    graph = read_graph(module)
    fold_constants(graph)
    return graph


def fold_constants(graph: Graph) -> int:
    """Note in a graph the numbers that follow from constants alone; how many there were."""
    constant: set[Op] = set()
    odd: set[Op] = set()  # of these, what cannot be read as it stands
    for op in graph.ops():
        makers = [value.op for value in _inputs(op)]
        if not _may_fold(op) or not all(maker in constant for maker in makers):
            continue
        constant.add(op)
        if op.name not in _PLAIN or any(maker in odd for maker in makers):
            odd.add(op)
    ends = [op for op in odd if _is_number(op) and any(user not in constant for user, _ in op.result.uses)]
    numbers = [op for op in sorted(ends, key=lambda op: op.position) if len(_cone(op)) <= _MOST_OPERATIONS]
    if not numbers:
        return 0
    cone = list(dict.fromkeys(part for op in numbers for part in _cone(op)))
    module = _mlir.module_of([op.ir for op in cone], [op.result.ir for op in numbers])
    if module is None:
        return 0
    types = [(op.result.shape, op.result.dtype) for op in numbers]
    for op, value in zip(numbers, _mlir.evaluate(module, types), strict=True):
        first = value.reshape(-1)[0]
        if value.size == 1 or (value == first).all():
            op.folded = np.asarray(first)
    return len(numbers)


def _may_fold(op: Op) -> bool:
    if op.name not in _FOLDABLE and not op.name.startswith("chlo."):
        return False
    return all(_may_fold(inner) for block in op.blocks for inner in block.ops)


def _inputs(op: Op) -> list[Value]:
    """The values that an operation reads: its operands, and what its blocks take from outside."""
    if not op.blocks:
        return list(op.operands)
    made = {id(value) for inner in _inside(op.blocks) for value in inner.results}
    made |= {id(arg) for block in _blocks(op.blocks) for arg in block.args}
    taken = [value for inner in _inside(op.blocks) for value in inner.operands if id(value) not in made]
    return [*op.operands, *taken]


def _blocks(blocks: tuple[Block, ...]) -> Iterator[Block]:
    for block in blocks:
        yield block
        for op in block.ops:
            yield from _blocks(op.blocks)


def _inside(blocks: tuple[Block, ...]) -> Iterator[Op]:
    return (op for block in _blocks(blocks) for op in block.ops)


def _is_number(op: Op) -> bool:
    """Whether an operation makes one floating-point number, or an array of that number alone."""
    if len(op.results) != 1 or op.result.dtype not in ("float32", "bfloat16", "float16"):
        return False
    return op.result.size == 1 or (op.result.size <= _MOST_ELEMENTS and _is_uniform(op))


def _is_uniform(op: Op) -> bool:
    stack, seen = [op], {op}
    while stack:
        top = stack.pop()
        if top.result.size == 1:
            continue
        if top.name == "constant":
            value = top.constant()
            if value is None or value.size != 1:
                return False
        elif top.name not in _PLAIN and not top.name.startswith(("chlo.", "composite@chlo.")):
            return False
        fresh = [value.op for value in top.operands if value.op is not None and value.op not in seen]
        seen |= set(fresh)
        stack += fresh
    return True


def _cone(op: Op) -> list[Op]:
    """An operation and all that it is computed from, what comes first first."""
    order: dict[Op, None] = {}
    stack: list[tuple[Op, bool]] = [(op, False)]
    while stack and len(order) <= _MOST_OPERATIONS:
        top, ready = stack.pop()
        if top in order:
            continue
        if ready:
            order[top] = None
            continue
        stack.append((top, True))
        stack += [(value.op, False) for value in _inputs(top) if value.op is not None and value.op not in order]
    return list(order)
