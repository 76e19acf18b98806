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
from hire_compiler.tails.spaces import Rows, Space


class Mixed(Unbounded):
    """Batch rows are mixed, which can be followed where all of them have the same candidates."""


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
      source: which values.
      low, high: between which ranks, 0 for the largest, ``[batch, 1]``.
    """

    source: Source
    low: Any
    high: Any


@dataclass(frozen=True, eq=False)
class Source:
    """Which values were sorted, or compared with each other.

    Attributes:
      compared: the bounds of the candidates; while there are none, of all rows.
      width: how many of the vocabulary.
      begin: the first of them.
    """

    compared: object
    width: int
    begin: int = 0

    def same(self, value: Wide) -> bool:
        """Whether a value is these."""
        other = value.as_source
        return self.compared is other.compared and (self.width, self.begin) == (other.width, other.begin)


@dataclass(frozen=True, eq=False)
class Sorting:
    """A sort that carried positions along.

    Attributes:
      values: which were sorted.
      down: the largest first.
      stable: equal ones stay as they stood.
      backwards: the positions count from the end.
    """

    values: Wide
    down: bool
    stable: bool
    backwards: bool


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
      source: of sorted values, which ones were sorted.
      sorting: of the positions that a sort carried along, which sort; all of them are the permutation that it is.
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
    source: Source | None = None
    sorting: Sorting | None = None
    cut: bool = False

    @property
    def dtype(self) -> str:
        """The author's type."""
        bounded = self.outside if self.inside is None else self.inside
        assert bounded is not None
        return bounded.dtype

    @property
    def compared(self) -> object:
        """By which the values are recognised: the bounds of the candidates; while there are none, of all rows."""
        return self.outside if self.inside is None else self.inside

    @property
    def as_source(self) -> Source:
        """These values, to be recognised later."""
        return Source(self.compared, self.space.width, self.space.begin if isinstance(self.space, Rows) else 0)

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
    inside, outside = (
        Bounded(point(like.space.places(side).astype(dtype)), dtype, False) for side in ("inside", "outside")
    )
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
    floats = dtype.startswith(("float", "bfloat"))
    low, high = (jnp.broadcast_to(end, shape) for end in _ends_of(jnp.dtype("float32" if floats else dtype)))
    return plain(shape, Enclosure(low, high), dtype)


def _ends_of(dtype: Any) -> tuple[Any, Any]:
    """The bounds of anything at all."""
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.full((), jnp.nan, dtype), jnp.full((), jnp.nan, dtype)
    if not jnp.issubdtype(dtype, jnp.integer):
        return jnp.zeros((), bool), jnp.ones((), bool)
    info = jnp.iinfo(dtype)
    return jnp.full((), info.min, dtype), jnp.full((), info.max, dtype)


def unless_sure(value: Any, sure: Any) -> Any:
    """A value, or anything at all where something that it depends on is in doubt (``sure``: one truth value)."""

    def one(bounded: Bounded) -> Bounded:
        bounds = bounded.bounds
        least, most = _ends_of(bounds.low.dtype)
        ends = jnp.where(sure, bounds.low, least), jnp.where(sure, bounds.high, most)
        return replace(bounded, bounds=Enclosure(*ends))

    if isinstance(value, Plain):
        return Plain(value.shape, one(value.bounded))
    inside, outside = (side and one(side) for side in (value.inside, value.outside))
    return replace(value, inside=inside, outside=outside, frame=None, bag=None, source=None)


def either(*values: Bounded) -> Bounded:
    """Bounds that hold several values of one type."""
    return Bounded(union(*(v.bounds for v in values)), values[0].dtype, any(v.rounds for v in values))
