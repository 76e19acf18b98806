"""Scales behind a product, one for each channel or one for all: part of what the product computes, not of what follows.

::

    x ── dot(q) ── [convert] ── × scale ── [+ bias] ── act ──

The author's code is repeated as it stands; but an activation is named, and neurons are ranked, by the scaled product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.graph.narrow import NarrowWeight, narrow_weight
from hire_compiler.graph.storage import apply, leaf
from hire_compiler.graph.weight import Weight


@dataclass(frozen=True)
class ChannelScale:
    """A parameter by which a product is scaled.

    Attributes:
      stream: the product's number among the inputs.
      vector: the number of the scale among the inputs behind the products: what is given, then the vectors.
      op: ``multiply`` or ``divide``.
    """

    stream: int
    vector: int
    op: str


def split_scales(
    expression: Expression, streams: int, scaled: frozenset[int] | None = None
) -> tuple[Expression, tuple[ChannelScale, ...], tuple[int, ...]]:
    """The code on products that are scaled already, and their scales.

    Args:
      streams: how many products come first among the inputs.
      scaled: of which products; None for all.

    Returns:
      The code without the scales, the scales, and which of the inputs behind the products it still takes.
    """
    scales: list[ChannelScale] = []
    code = list(expression.instructions)
    for stream in range(streams) if scaled is None else sorted(scaled):
        at = stream
        while (reader := _only_reader(code, expression, at)) is not None:
            instruction = code[reader - expression.inputs]
            others = [i for i in instruction.args if i != at]
            if instruction.op in ("multiply", "divide") and len(others) == 1:
                vector = _source(code, expression.inputs, others[0])
                inverse = instruction.op == "divide" and at != instruction.args[0]
                if inverse or not streams <= vector < expression.inputs:
                    break
                scales.append(ChannelScale(stream, vector - streams, instruction.op))
                code[reader - expression.inputs] = Instruction("convert", (at,), instruction.dtype)
            elif instruction.op != "convert":
                break
            at = reader
    return _without_unused(replace(expression, instructions=tuple(code)), streams, scales)


def _only_reader(code: list[Instruction], expression: Expression, value: int) -> int | None:
    readers = [at for at, instruction in enumerate(code, start=expression.inputs) if value in instruction.args]
    return readers[0] if len(readers) == 1 and expression.output != value else None


def _source(code: list[Instruction], inputs: int, value: int) -> int:
    while value >= inputs and code[value - inputs].op == "convert":
        value = code[value - inputs].args[0]
    return value


def _without_unused(
    expression: Expression, streams: int, scales: list[ChannelScale]
) -> tuple[Expression, tuple[ChannelScale, ...], tuple[int, ...]]:
    """Drops the vectors that only were scales, and what was computed of them."""
    needed, stack = set(), [expression.output]
    while stack:
        at = stack.pop()
        if at not in needed:
            needed.add(at)
            stack += expression.instructions[at - expression.inputs].args if at >= expression.inputs else ()
    dropped = {scale.vector + streams for scale in scales} - needed
    kept = [i for i in range(expression.inputs) if i not in dropped]
    number = {old: new for new, old in enumerate(kept)}
    code: list[Instruction] = []
    for at, instruction in enumerate(expression.instructions, start=expression.inputs):
        if at in needed:
            number[at] = len(kept) + len(code)
            code.append(replace(instruction, args=tuple(number[i] for i in instruction.args)))
    plain = Expression(len(kept), tuple(code), number[expression.output])
    return plain, tuple(scales), tuple(i - streams for i in kept if i >= streams)


def scaled_rows(rows: Weight, scales: list[tuple[str, Weight, np.ndarray]]) -> Weight:
    """The rows ``[m, d]`` times their scales: the operation, and for each row the entry of a vector."""
    form = rows.form if isinstance(rows, NarrowWeight) else leaf(rows)
    form = form.then("convert", "float32")
    for op, vector, index in scales:
        entries = _entries(vector, index)
        if entries is None:
            return rows
        wide = leaf(entries).then("convert", "float32").broadcast((0, 1), rows.shape)
        form = apply(op, [form, wide], "float32")
    return narrow_weight(form)


def _entries(vector: Weight, index: np.ndarray) -> Weight | None:
    """A vector's entries as a column, ``[m, 1]``, or ``[1, 1]`` if they are all the same."""
    column = vector.as_columns(tuple(range(len(vector.shape))))
    if (index == index[0]).all():
        return column.take_rows(index[:1])
    return column.take_rows(index)
