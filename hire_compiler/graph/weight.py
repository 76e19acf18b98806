"""Where a weight comes from: an argument of ``@main`` and the steps from it to the operand of a dot.

Plain data, so that a plan can be printed and saved; ``runtime/materialize.py`` replays the steps as JAX code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Step:
    """One operation: ``transpose``, ``reshape``, ``convert``, ``slice``, ``scale`` or ``layer``.

    ``scale`` multiplies or divides everything by one constant.
    ``layer`` picks one entry of a stacked weight along an axis, by a loop's counter; all later steps are
    meant for each entry. Inside one device's program ``turn`` exchanges its columns for rows of other devices, ``deal``
    gives some of its rows to each of them.
    """

    op: str
    values: tuple[object, ...]


@dataclass(frozen=True)
class Weight:
    """A tensor computed from one argument by layout steps, conversions and constant factors alone.

    Attributes:
      argument: position among the arguments of ``@main``.
      name: the argument's name.
      shape, dtype: of the tensor at the end of the steps (of one layer, if stacked).
      steps: from the argument to the tensor.
      layers: length of the stacked axis, or None for a weight of its own.
    """

    argument: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[Step, ...] = ()
    layers: int | None = None

    def then(self, step: Step, shape: tuple[int, ...], dtype: str | None = None) -> Weight:
        """The weight after one more step."""
        layers = self.layers
        if step.op == "layer":
            layers = int(step.values[1])  # type: ignore[call-overload]
        return replace(self, steps=(*self.steps, step), shape=shape, dtype=dtype or self.dtype, layers=layers)

    def as_rows(self, contracting: tuple[int, ...]) -> Weight:
        """The weight as a matrix ``[rows, d]``: the contracting dimensions last, the others merged."""
        free = tuple(i for i in range(len(self.shape)) if i not in contracting)
        return self.as_matrix(free, contracting)

    def as_columns(self, contracting: tuple[int, ...]) -> Weight:
        """The weight as a matrix ``[d, rows]``: one row for each entry of the contracting dimensions."""
        free = tuple(i for i in range(len(self.shape)) if i not in contracting)
        return self.as_matrix(contracting, free)

    def as_matrix(self, left: tuple[int, ...], right: tuple[int, ...]) -> Weight:
        """The weight as a matrix: some dimensions merged into its rows, in this order, the others into its columns."""
        order = (*left, *right)
        rows = int(np.prod([self.shape[i] for i in left], dtype=np.int64))
        weight = self
        if order != tuple(range(len(order))):
            weight = weight.then(Step("transpose", order), tuple(self.shape[i] for i in order)).simplified()
        matrix = (rows, self.size // rows)
        return weight if weight.shape == matrix else weight.then(Step("reshape", matrix), matrix)

    def simplified(self) -> Weight:
        """The same weight without two transposes in a row."""
        # ``x @ embed.T`` transposes what the dot then reads by rows: the two cancel, and the rows are a view.
        if len(self.steps) < 2 or {step.op for step in self.steps[-2:]} != {"transpose"}:
            return self
        first, second = (step.values for step in self.steps[-2:])
        combined = tuple(int(first[int(i)]) for i in second)  # type: ignore[call-overload]
        steps = self.steps[:-2]
        if combined != tuple(range(len(combined))):
            steps = (*steps, Step("transpose", combined))
        return replace(self, steps=steps)

    def halved(self) -> Weight:
        """The matrix as bfloat16, for one in float32 whose every entry is such a number."""
        return self.then(Step("convert", ("bfloat16",)), self.shape, "bfloat16")

    def take_rows(self, rows: np.ndarray) -> Weight | None:
        """The matrix of some rows: all, at a constant stride, or in equal blocks at a constant distance.

        Gate and up in one weight are the first half and the second, or every other row, or, cut for the devices
        that share them, alternating blocks. None if the rows lie otherwise.
        """
        count, d = len(rows), self.shape[1]
        if count == self.shape[0] and np.array_equal(rows, np.arange(count)):
            return self
        steps = np.diff(rows)
        if count == 1 or (steps[0] > 0 and (steps == steps[0]).all()):
            stride = int(steps[0]) if count > 1 else 1
            bounds = ((int(rows[0]), 0), (int(rows[-1]) + 1, d), (stride, 1))
            return self.then(Step("slice", bounds), (count, d))
        block = int(np.argmax(steps != 1)) + 1
        if count % block:
            return None
        blocks = rows.reshape(-1, block)
        distance = int(blocks[1, 0] - blocks[0, 0])
        first = int(rows[0]) % distance if distance > 0 else 0
        regular = blocks[0, 0] + np.arange(len(blocks))[:, None] * distance + np.arange(block)
        if distance < block or self.shape[0] % distance or first + block > distance or not (blocks == regular).all():
            return None
        whole, start = self.shape[0] // distance, int(rows[0]) // distance
        cut = self.then(Step("reshape", (whole, distance, d)), (whole, distance, d))
        corners = ((start, first, 0), (start + len(blocks), first + block, d), (1, 1, 1))
        cut = cut.then(Step("slice", corners), (len(blocks), block, d))
        return cut.then(Step("reshape", (count, d)), (count, d))

    @property
    def size(self) -> int:
        """Elements of one layer."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of one layer."""
        return -(-self.size * bits(self.dtype) // 8)

    @property
    def leaves(self) -> tuple[Weight, ...]:
        """The matrices that its rows are read from, row by row: itself, unless it is computed from several."""
        return (self,)

    @property
    def stored(self) -> str:
        """The type in which its numbers are stored, where that is narrower than that of the matrix."""
        return self.dtype

    @property
    def is_computed(self) -> bool:
        """Whether its rows are computed from rows of several matrices, and not read as they are."""
        return False

    @property
    def arguments(self) -> tuple[int, ...]:
        """The arguments that it is computed from."""
        return (self.argument,)

    @property
    def is_view(self) -> bool:
        """Whether the argument itself, unchanged in memory, already holds this layout."""
        return all(step.op in ("reshape", "layer") for step in self.steps) and all(
            step.op != "layer" or step.values[0] == 0 for step in self.steps
        )

    @property
    def key(self) -> str:
        """A name for exactly this tensor, equal for prefill and decode."""
        steps = ";".join(f"{step.op}{step.values}" for step in self.steps)
        return f"{self.name}|{steps}" if steps else self.name


def bits(dtype: str) -> int:
    """Bits of one element, by the first number in the name of its type: ``int4``, ``float8_e4m3fn``, ``f8E4M3FN``."""
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 8


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return {"bfloat16": 2, "float16": 2, "bool": 1}.get(dtype) or np.dtype(dtype).itemsize
