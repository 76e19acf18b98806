"""A weight that is computed from narrow numbers: the matrix, and how its rows come from the rows of what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from hire_compiler.graph.expression import Expression
from hire_compiler.graph.parts import Constant
from hire_compiler.graph.storage import Entangled, Factors, Form
from hire_compiler.graph.weight import Step, Weight


@dataclass(frozen=True, kw_only=True)
class NarrowWeight(Weight):
    """A weight of which the numbers are stored narrow, with scales: elementwise code over several arguments.

    What a :class:`~hire_compiler.graph.weight.Weight` says of its argument it says of the largest. A step changes the
    form, so ``steps`` stays empty.
    """

    form: Form

    def then(self, step: Step, shape: tuple[int, ...], dtype: str | None = None) -> Weight:
        """The weight after one more step.

        Raises:
          Entangled: the step mixes what its parts hold.
        """
        return narrow_weight(self.form.step(step, shape, dtype or self.dtype))

    def take_rows(self, rows: np.ndarray) -> Weight | None:
        """As for any weight; None too where the rows cut blocks that share a scale."""
        try:
            return super().take_rows(rows)
        except Entangled:
            return None

    @property
    def nbytes(self) -> int:
        """Bytes of one layer as it is stored."""
        return sum(part.nbytes for part in self.form.parts if isinstance(part, Weight))

    @property
    def is_view(self) -> bool:
        """Whether all that it is computed from lies as its rows do."""
        return all(leaf.is_view for leaf in self.leaves)

    @property
    def key(self) -> str:
        """A name for exactly this tensor."""
        parts = [part.key if isinstance(part, Weight) else repr(part) for part in self.form.parts]
        return f"{self.form.code} of {', '.join(parts)} as {self.form.dims}"

    @property
    def is_computed(self) -> bool:
        """It is."""
        return True

    @property
    def arguments(self) -> tuple[int, ...]:
        """The arguments that it is computed from."""
        return tuple(dict.fromkeys(part.argument for part in self.form.parts if isinstance(part, Weight)))

    @property
    def stored(self) -> str:
        """The type in which its numbers are stored."""
        return _largest(self.form).dtype

    @property
    def leaves(self) -> tuple[Weight, ...]:
        """The stored matrices, ``[rows, columns]`` of each: those of the matrix that it holds."""
        split = len(self.form.dims[0])
        found = []
        for part in self.form.parts:
            if isinstance(part, Weight):
                matrix = prod(part.shape[:split]), prod(part.shape[split:])
                found.append(part if part.shape == matrix else part.then(Step("reshape", matrix), matrix))
        return tuple(found)

    @property
    def rows(self) -> RowForm:
        """How its rows come from rows of the leaves."""
        form, split = self.form, len(self.form.dims[0])
        columns = self.form.dims[1]
        parts = [
            PartForm(
                tuple(n > 1 for n in part.shape[:split]),
                tuple(n > 1 for n in part.shape[split:]),
                part.dtype,
                part if isinstance(part, Constant) else None,
                isinstance(part, Weight) and part.layers is not None,
            )
            for part in form.parts
        ]
        return RowForm(form.dims[0], columns, tuple(parts), form.code, form.dtype)


@dataclass(frozen=True)
class PartForm:
    """What a part holds of a matrix.

    Attributes:
      rows, columns: for every factor of the rows and of the columns, whether the part has it; else it is repeated.
      dtype: in which it is stored.
      constant: its numbers, if these are the program's own.
      stacked: it has one entry for each layer.
    """

    rows: tuple[bool, ...]
    columns: tuple[bool, ...]
    dtype: str
    constant: Constant | None
    stacked: bool


@dataclass(frozen=True)
class RowForm:
    """How the rows of a matrix come from the rows of its parts.

    Attributes:
      rows, columns: the factors of a row's number, and of a column's.
      code: from the parts to the numbers, of type ``dtype``.
    """

    rows: Factors
    columns: Factors
    parts: tuple[PartForm, ...]
    code: Expression
    dtype: str


def narrow_weight(form: Form) -> NarrowWeight:
    """The weight of a form, all of whose stacked parts are picked by the same counter."""
    largest = _largest(form)
    layers = {part.layers for part in form.parts if isinstance(part, Weight) and part.layers is not None}
    return NarrowWeight(
        largest.argument, largest.name, form.shape, form.dtype, layers=max(layers, default=None), form=form
    )


def _largest(form: Form) -> Weight:
    return max((part for part in form.parts if isinstance(part, Weight)), key=lambda part: (part.size, part.nbytes))
