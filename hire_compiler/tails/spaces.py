"""The two orders in which a value has a vocabulary: by rows of the weight, or by rank after a sort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from hire_compiler.proofs.enclosure import Unbounded


def entries_of(array: Any, ids: Any) -> Any:
    """Entries ``ids [batch or 1, c]`` of an array ``[batch or 1, n]``."""
    if ids.shape[0] == 1:
        return array[:, ids[0]]
    return array[0][ids] if array.shape[0] == 1 else jnp.take_along_axis(array, ids, axis=1)


def first_of(array: Any, count: int) -> Any:
    """The first columns of an array ``[batch or 1, n]``."""
    return array[:, :count]


Filled = frozenset[int]


class Step(Protocol):
    """Something done to the columns or the batch rows since the logits, which can be undone."""

    def undone(self, array: Any, there: Filled) -> list[tuple[Any, Filled]]:
        """An array by the rows and columns there were, minus infinity where nothing was taken; several if need be.

        Args:
          there: in which of its batch rows something stands.
        """


@dataclass(frozen=True)
class _Step:
    """Something done to batch rows: some were taken, or several of them were put one behind the other.

    Attributes:
      batch: how many there were.
      rows: which were taken; empty where they were joined.
      beams: how many were joined.
    """

    batch: int
    rows: tuple[int, ...] = ()
    beams: int = 1

    def undone(self, array: Any, there: Filled) -> list[tuple[Any, Filled]]:
        """By the batch rows there were; several if a row was often."""
        if not self.rows:
            full = jnp.broadcast_to(array, (self.batch // self.beams, array.shape[1])).reshape(self.batch, -1)
            return [(full, frozenset(row for row in range(self.batch) if row // self.beams in there))]
        layers: list[np.ndarray] = []
        often = [0] * self.batch
        for place, row in enumerate(self.rows):
            if often[row] == len(layers):
                layers.append(np.full(self.batch, -1))
            layers[often[row]][row] = place
            often[row] += 1
        full = jnp.broadcast_to(array, (len(self.rows), array.shape[1]))
        return [
            (
                jnp.where(jnp.asarray(at >= 0)[:, None], full[np.maximum(at, 0)], -jnp.inf),
                frozenset(row for row in range(self.batch) if at[row] in there),
            )
            for at in layers
        ]


@dataclass(frozen=True, eq=False)
class Rows:
    """The order of the weight's rows: where candidates and others stand.

    Attributes:
      ids: the candidates, int32 ``[batch, c]``; None while there are none.
      chosen: which of all rows are candidates, bool ``[batch, total]``.
      width: how many rows the author's array has; what stands behind them is padding and does not count.
      total: how many rows the weight has.
      flipped: the author's array runs from the last row to the first.
      pick: from an array ``[batch or 1, total]`` and ``ids`` to the entries of the candidates.
      first: from an array ``[batch or 1, total]`` to its first columns, where the candidates are.
      shared: all batch rows have the same candidates (``ids`` and ``chosen`` have one row), so that they can be mixed.
      path: what was done to the batch rows and to the columns since the logits.
      origin: the candidates before that; None where nothing was.
      begin: the first row that the author's array has: a head in one product with others begins behind them.
    """

    ids: Any
    chosen: Any
    width: int
    total: int
    flipped: bool = False
    pick: Callable[[Any, Any], Any] = entries_of
    first: Callable[[Any, int], Any] = first_of
    shared: bool = False
    path: tuple[Step, ...] = ()
    origin: object = None
    begin: int = 0

    def same(self, other: Space) -> bool:
        """Whether both are the same columns."""
        if not isinstance(other, Rows) or self.root is not other.root:
            return False
        same = (self.width, self.flipped, self.path) == (other.width, other.flipped, other.path)
        return same and self.begin == other.begin

    @property
    def root(self) -> object:
        """The candidates by which all that are made of them are recognised."""
        return self.ids if self.origin is None else self.origin

    @property
    def lists(self) -> tuple[Step, ...]:
        """What was done to the columns since the logits."""
        return tuple(step for step in self.path if not isinstance(step, _Step))

    def of_rows(self, rows: tuple[int, ...], batch: int) -> Rows:
        """The candidates of some of ``batch`` rows, in their order, some of them more than once."""
        moved = replace(self, path=(*self.path, _Step(batch, rows)), origin=self.root)
        if self.ids is None or self.ids.shape[0] == 1:
            return self if self.shared else moved
        at = jnp.asarray(rows, jnp.int32)
        return replace(moved, ids=self.ids[at], chosen=self.chosen[at])

    def flattened(self, batch: int, beams: int) -> Rows:
        """Of ``batch`` rows each ``beams`` as one, of a vocabulary that is larger.

        Raises:
          Unbounded: a part of the vocabulary is joined.
        """
        if self.begin:
            raise Unbounded("beams of a part of the vocabulary")
        step = _Step(batch, beams=beams)
        moved = replace(
            self, width=self.width * beams, total=self.total * beams, path=(*self.path, step), origin=self.root,
            shared=False, pick=entries_of, first=first_of,
        )  # fmt: skip
        if self.ids is None:
            return moved
        first = jnp.arange(batch, dtype=jnp.int32)[:, None] % beams * self.width
        chosen = jnp.broadcast_to(self.chosen, (batch, self.total))
        ids = (self.ids + first).reshape(batch // beams, -1)
        return replace(moved, ids=ids, chosen=chosen.reshape(batch // beams, -1))

    def as_written(self, array: Any, batch: int) -> list[tuple[Any, Filled]]:
        """An array ``[batch or 1, total]`` of floats by the logits' own batch rows, and of which of them it is.

        Several where a row is there more than once.
        """
        arrays: list[tuple[Any, Filled]] = [(array, frozenset(range(batch)))]
        for step in reversed(self.path):
            arrays = [layer for one, there in arrays for layer in step.undone(one, there)]
        return arrays

    @property
    def members(self) -> Any:
        """Which candidates count, bool ``[batch, c]``."""
        return self._counted(self.ids)

    def _counted(self, rows: Any) -> Any:
        if not self.begin:
            return rows < self.width
        return (rows >= self.begin) & (rows < self.begin + self.width)

    def take(self, array: Any) -> tuple[Any, Any]:
        """The columns of an array ``[batch or 1, width or 1]`` for the candidates, and for all rows."""
        if array.shape[1] == 1:
            return array, array
        array = jnp.flip(array, 1) if self.flipped else array
        behind = self.total - self.begin - self.width
        array = jnp.pad(array, ((0, 0), (self.begin, behind))) if self.total > self.width else array
        return None if self.ids is None else self.pick(array, self.ids), array

    def places(self, side: str) -> Any:
        """Where candidates ``[batch, c]``, or all rows ``[1, total]`` (outside), stand in the author's array."""
        at = self.ids if side == "inside" else jnp.arange(self.total, dtype=jnp.int32)[None]
        at = at - self.begin if self.begin else at
        return self.width - 1 - at if self.flipped else at

    @property
    def others(self) -> Any:
        """Which of all rows are neither candidates nor padding."""
        counted = self._counted(jnp.arange(self.total, dtype=jnp.int32)[None])
        return counted if self.chosen is None else ~self.chosen & counted


@dataclass(frozen=True, eq=False)
class Ranks:
    """The order after a sort; the first of the inner columns is the best.

    Attributes:
      inner: how many of the best are kept apart.
      width: how many columns there are.
      rising: the author's array runs from the worst to the best.
      batch: how many batch rows.
      first: from an array ``[batch or 1, width]`` to its first columns, where the best are.
    """

    inner: int
    width: int
    rising: bool
    batch: int
    first: Callable[[Any, int], Any] = first_of

    def same(self, other: Space) -> bool:
        """Whether both are the same columns (of whichever sort: positions are all that counts)."""
        if not isinstance(other, Ranks):
            return False
        return (self.inner, self.width, self.rising) == (other.inner, other.width, other.rising)

    @property
    def members(self) -> Any:
        """All count."""
        return jnp.ones((self.batch, self.inner), bool)

    def take(self, array: Any) -> tuple[Any, Any]:
        """The columns of an array ``[batch or 1, width or 1]`` for the best, and for the rest."""
        if array.shape[1] == 1:
            return array, array
        array = jnp.flip(array, 1) if self.rising else array
        return self.first(array, self.inner), array[:, self.inner :]

    def places(self, side: str) -> Any:
        """Where the best or (``side`` is "outside") the rest stand in the author's array."""
        everywhere = jnp.arange(self.width, dtype=jnp.int32)[None]
        everywhere = self.width - 1 - everywhere if self.rising else everywhere
        return everywhere[:, : self.inner] if side == "inside" else everywhere[:, self.inner :]

    @property
    def others(self) -> Any:
        """All of the rest."""
        return jnp.ones((1, self.width - self.inner), bool)


Space = Rows | Ranks
