"""Numbers of batch rows beside a block's neurons: padding that is masked out, a weight of each row.

::

    x ── dot(w_up) ── act ── × mask ── dot(w_down)

The author's code is repeated as it stands, mask and all; but an activation is named without it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.patterns.ffn.activations import Activation
from hire_compiler.patterns.ffn.recognise import recognise
from hire_compiler.patterns.operations.match import NoMatch


def is_row_factor(index: np.ndarray) -> bool:
    """Whether what is given is one number of each batch row, from the element of each neuron in each of them."""
    return bool((index == index[:, :1]).all()) and bool((index[:, 0] == np.arange(len(index))).all())


def recognise_without(
    expression: Expression, streams: int, rows: Collection[int]
) -> tuple[Activation, tuple[int, ...]]:
    """The activation of code some of whose inputs are numbers of batch rows; and the inputs that are left.

    Such a number is 1 where its row counts; or 0, where it masks the others.

    Raises:
      NoMatch: as :func:`~hire_compiler.patterns.ffn.recognise.recognise`.
    """
    plain, left = _without(expression, rows, 1.0)
    try:
        return recognise(plain, streams), left
    except NoMatch:
        if not rows:
            raise
        return recognise(_without(expression, rows, 0.0)[0], streams), left


def _without(expression: Expression, rows: Collection[int], value: float) -> tuple[Expression, tuple[int, ...]]:
    """The code with a constant in the place of some inputs, and the inputs that are left."""
    kept = tuple(i for i in range(expression.inputs) if i not in rows)
    number = {old: new for new, old in enumerate(kept)}
    code: list[Instruction] = []
    for old in sorted(rows):
        number[old] = len(kept) + len(code)
        code.append(Instruction("constant", (), "float32", value))
    for at, instruction in enumerate(expression.instructions, start=expression.inputs):
        number[at] = len(kept) + len(code)
        code.append(replace(instruction, args=tuple(number[i] for i in instruction.args)))
    return Expression(len(kept), tuple(code), number[expression.output]), kept
