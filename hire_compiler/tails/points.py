"""What a tail compares: the values by which its candidates are chosen."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp

from hire_compiler.graph.graph import Value
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.layout import LAYOUT
from hire_compiler.tails.spaces import Filled, Rows
from hire_compiler.tails.values import Wide


class Points:
    """What is compared while there are no candidates yet."""

    def __init__(self) -> None:
        self._found: list[tuple[Any, Filled]] = []
        self._noted: set[tuple[int, object]] = set()

    @property
    def arrays(self) -> list[Any]:
        """Upper bounds of all rows, ``[batch or 1, n]`` each; those that are of different batch rows are one."""
        return [array for array, _ in self._found]

    def note(self, value: Value, wide: Wide, elementwise: Elementwise) -> None:
        """Note one more; the same value that only moved since is the same."""
        if not isinstance(wide.space, Rows) or wide.outside is None:
            return
        high = elementwise.rounded(wide.outside).high
        name = id(_root(value)), wide.space.path
        if high.dtype == bool or name in self._noted:
            return
        self._noted.add(name)
        high = jnp.where(wide.space.others, high, -jnp.inf)
        for array, rows in wide.space.as_written(high, prod(wide.lead)):
            self._add(array, rows)

    def _add(self, array: Any, rows: Filled) -> None:
        for number, (known, others) in enumerate(self._found):
            if rows.isdisjoint(others):
                self._found[number] = jnp.maximum(known, array), rows | others
                return
        self._found.append((array, rows))


def _root(value: Value) -> Value:
    while value.op is not None and value.op.name in LAYOUT and value.op.name != "slice":
        value = value.op.operands[0]
    return value
