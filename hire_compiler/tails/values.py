"""What a tail computes with: bounds of arrays, kept apart for candidates and other rows where the vocabulary is.

A :class:`Plain` value has no vocabulary: a number of each batch row, or anything that does not follow from the logits.
Its bounds may have length 1 where the author's array repeats itself. A :class:`Wide` value has one dimension of the
vocabulary, in one of two orders: by *rows* of the weight, or by *rank* after a sort. It is kept as
``[batch, candidates]`` and ``[batch, vocabulary]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax.numpy as jnp

from hire_compiler.proofs.enclosure import Again, Bounded, Unbounded, computed_again
from hire_compiler.proofs.interval import Enclosure, known, point, union


@dataclass(frozen=True, eq=False)
class Frame:
    """The same value up to one unknown number of each batch row, which is the same for all columns.

    Numbers such as the sum of a softmax are only known between bounds, but it is the same sum for all columns: what is
    compared with each other needs no more than that. In a ``scale`` the true value is the framed one times an unknown
    factor of at least 1, in a ``shift`` it is the framed one plus an unknown number of at most ``reach`` in size.

    Attributes:
      origin: the unknown number; values of one origin can be compared.
      reach: of a shift, how large the number can be; of a scale, how large the factor: ``[batch, 1]``.
      value: the framed value.
    """

    kind: str
    origin: object
    reach: Any
    value: Plain | Wide


@dataclass(frozen=True, eq=False)
class Plain:
    """Bounds of a value without a vocabulary, in the author's shape (length 1 stands for any).

    Attributes:
      literal: the number, if it is one constant.
      origin: by which a number of each batch row is recognised.
      kth: of which sorted values it is the one at a rank.
    """

    shape: tuple[int, ...]
    bounded: Bounded
    literal: float | None = None
    origin: object = field(default_factory=object)
    frame: Frame | None = None
    kth: Kth | None = None

    @property
    def dtype(self) -> str:
        """The author's type."""
        return self.bounded.dtype


@dataclass(frozen=True, eq=False)
class Kth:
    """Which number of each batch row a value is: the one at some rank of sorted values.

    Attributes:
      source: the bounds of the candidates that were sorted, by which the values are recognised.
      low, high: between which ranks, 0 for the largest, ``[batch, 1]``.
    """

    source: object
    low: Any
    high: Any


def entries_of(array: Any, ids: Any) -> Any:
    """Entries ``ids [batch or 1, c]`` of an array ``[batch or 1, n]``."""
    if ids.shape[0] == 1:
        return array[:, ids[0]]
    return array[0][ids] if array.shape[0] == 1 else jnp.take_along_axis(array, ids, axis=1)


def first_of(array: Any, count: int) -> Any:
    """The first columns of an array ``[batch or 1, n]``."""
    return array[:, :count]


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
    """

    ids: Any
    chosen: Any
    width: int
    total: int
    flipped: bool = False
    pick: Callable[[Any, Any], Any] = entries_of
    first: Callable[[Any, int], Any] = first_of
    shared: bool = False

    def same(self, other: Space) -> bool:
        """Whether both are the same columns."""
        same = isinstance(other, Rows) and (self.width, self.flipped) == (other.width, other.flipped)
        return same and self.ids is other.ids  # type: ignore[union-attr]

    @property
    def members(self) -> Any:
        """Which candidates count, bool ``[batch, c]``."""
        return self.ids < self.width

    def take(self, array: Any) -> tuple[Any, Any]:
        """The columns of an array ``[batch or 1, width or 1]`` for the candidates, and for all rows."""
        if array.shape[1] == 1:
            return array, array
        array = jnp.flip(array, 1) if self.flipped else array
        array = jnp.pad(array, ((0, 0), (0, self.total - self.width))) if self.total > self.width else array
        return None if self.ids is None else self.pick(array, self.ids), array

    @property
    def positions(self) -> tuple[Any, Any]:
        """Where candidates and all rows stand in the author's array, ``[batch, c]`` and ``[1, total]``."""
        everywhere = jnp.arange(self.total, dtype=jnp.int32)[None]
        if self.flipped:
            return self.width - 1 - self.ids, self.width - 1 - everywhere
        return self.ids, everywhere

    @property
    def others(self) -> Any:
        """Which of all rows are neither candidates nor padding."""
        counted = jnp.arange(self.total, dtype=jnp.int32)[None] < self.width
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

    @property
    def positions(self) -> tuple[Any, Any]:
        """Where the best and the rest stand in the author's array."""
        everywhere = jnp.arange(self.width, dtype=jnp.int32)[None]
        everywhere = self.width - 1 - everywhere if self.rising else everywhere
        return everywhere[:, : self.inner], everywhere[:, self.inner :]

    @property
    def others(self) -> Any:
        """All of the rest."""
        return jnp.ones((1, self.width - self.inner), bool)


Space = Rows | Ranks


@dataclass(frozen=True, eq=False)
class Wide:
    """Bounds of a value with a vocabulary.

    Attributes:
      shape: the author's.
      axis: the dimension of the vocabulary; the others, in order, are the batch.
      inside: of the candidates, ``[batch, c]``; None while there are none.
      outside: of the other rows, ``[batch, n]`` (what stands there for candidates means nothing); None if there are
        none.
      made: the arithmetic behind it since the product.
      bag: of sorted values the same ones as they stood before, where operations since did not depend on the order.
      source: of sorted values, the bounds of the candidates that were sorted.
      cut: it follows from a comparison with the value at some rank, which usually leaves few columns that count.
    """

    shape: tuple[int, ...]
    axis: int
    space: Space
    inside: Bounded | None
    outside: Bounded | None
    frame: Frame | None = None
    made: frozenset[str] = frozenset()
    bag: Wide | None = None
    source: object = None
    cut: bool = False

    @property
    def dtype(self) -> str:
        """The author's type."""
        bounded = self.outside if self.inside is None else self.inside
        assert bounded is not None
        return bounded.dtype

    @property
    def lead(self) -> tuple[int, ...]:
        """The author's dimensions of the batch."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]


@dataclass(frozen=True, eq=False)
class Unknown:
    """A value of which nothing is known yet, because candidates are still to be chosen."""

    shape: tuple[int, ...]
    dtype: str


Shadow = Plain | Wide | Unknown


def mapped(bounds: Enclosure, function: Callable[[Any], Any]) -> Enclosure:
    """Both bounds moved about (no arithmetic); what is known exactly stays so."""
    if isinstance(bounds, Again):
        return computed_again(function(bounds.array))
    low = function(bounds.low)
    return point(low) if bounds.low is bounds.high else Enclosure(low, function(bounds.high))


def plain(shape: tuple[int, ...], bounds: Enclosure, dtype: str) -> Plain:
    """A value without a vocabulary that needs no more rounding."""
    return Plain(shape, Bounded(bounds, dtype, False))


def is_known(value: Shadow) -> bool:
    """Whether it is exactly known, before anything runs."""
    return isinstance(value, Plain) and value.bounded.bounds.low is value.bounded.bounds.high


def is_row_number(value: Shadow, axis: int) -> bool:
    """Whether a plain value does not change along a dimension."""
    return isinstance(value, Plain) and value.bounded.bounds.low.shape[axis] == 1


def split(value: Plain, like: Wide) -> tuple[Bounded | None, Bounded | None]:
    """The columns of a plain value of the same shape, as :class:`Wide` values have them."""
    bounds = value.bounded.bounds
    ends = (bounds.array,) if isinstance(bounds, Again) else (bounds.low, bounds.high)[: 1 + (not known(bounds))]
    taken = [like.space.take(canonical(end, like)) for end in ends]

    def side(which: int) -> Bounded:
        made = [ends[which] for ends in taken]
        if isinstance(bounds, Again):
            return replace(value.bounded, bounds=computed_again(made[0]))
        return replace(value.bounded, bounds=Enclosure(made[0], made[-1]))

    return (None if like.inside is None else side(0)), (None if like.outside is None else side(1))


def positions(like: Wide, dtype: str) -> Wide:
    """Where each column of a wide value stands in the author's array."""
    inside, outside = (Bounded(point(at.astype(dtype)), dtype, False) for at in like.space.positions)
    return Wide(like.shape, like.axis, like.space, inside, outside)


def canonical(array: Any, like: Wide) -> Any:
    """An array that broadcasts to the shape of a wide value as ``[batch or 1, columns or 1]``."""
    moved = array if like.axis == array.ndim - 1 else jnp.moveaxis(array, like.axis, -1)
    if moved.ndim == 2 and moved.shape[0] in (1, prod(like.lead)):
        return moved
    if prod(moved.shape[:-1]) == 1:
        return moved.reshape(1, -1)
    return jnp.broadcast_to(moved, (*like.lead, moved.shape[-1])).reshape(prod(like.lead), -1)


def row_number(like: Wide, bounds: Enclosure, dtype: str, shape: tuple[int, ...] | None = None) -> Plain:
    """A number of each batch row, ``[batch, 1]``, in the author's shape."""
    shape = like.lead if shape is None else shape
    return plain(shape, mapped(bounds, lambda end: end.reshape(shape)), dtype)


def everything(shape: tuple[int, ...], dtype: str) -> Plain:
    """Anything at all, NaN too."""
    if dtype == "bool":
        return plain(shape, Enclosure(jnp.zeros(shape, bool), jnp.ones(shape, bool)), dtype)
    if not dtype.startswith(("float", "bfloat")):
        info = jnp.iinfo(dtype)
        low, high = (jnp.full(shape, end, dtype) for end in (info.min, info.max))
        return plain(shape, Enclosure(low, high), dtype)
    return plain(shape, Enclosure(jnp.full(shape, jnp.nan), jnp.full(shape, jnp.nan)), dtype)


def either(*values: Bounded) -> Bounded:
    """Bounds that hold several values of one type."""
    return Bounded(union(*(v.bounds for v in values)), values[0].dtype, any(v.rounds for v in values))


def refuse(what: str) -> Unbounded:
    """The reason why a tail cannot be followed."""
    return Unbounded(what)
