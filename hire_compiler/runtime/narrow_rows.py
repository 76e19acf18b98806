"""Rows that are stored narrow: the one door to a matrix that is never made whole.

Who wants rows or products asks here. Narrow rows are gathered as they are stored, with their scales, and the author's
own arithmetic is repeated on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.graph.narrow import PartForm, RowForm
from hire_compiler.runtime.target import ONE_BY_ONE, Target, bits_of, for_each_row, rows_dot

_PIECE = 256  # rows of a piece


@dataclass(frozen=True)
class NarrowRows:
    """The rows of a matrix, ``[n, d]``, or of one layer of a stack of them.

    Attributes:
      kept: for every part that is no constant its rows, ``[…, rows, columns]``, as they are stored.
      form: how the rows come from them.
      layer: which layer of those that are stacked.
    """

    kept: tuple[jax.Array, ...]
    form: RowForm
    target: Target
    layer: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of one layer."""
        return prod(self.form.rows), prod(self.form.columns)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the numbers that the author computes."""
        return jnp.dtype(self.form.dtype)

    def of_layer(self, layer: jax.Array | None) -> NarrowRows:
        """The rows of one layer."""
        return replace(self, layer=layer)

    def take(self, index: jax.Array, group: int = 1) -> jax.Array:
        """The rows of the chosen blocks of ``group`` adjacent ones: ``[k · group, d]``.

        Args:
          index: int32 ``[k]``, in range.
        """
        numbers = index if group == 1 else (index[:, None] * group + jnp.arange(group, dtype=index.dtype)).reshape(-1)
        parts = []
        for part, kept in self._parts():
            if part.constant is not None:
                parts.append(_expand(kept[_number_in(part, self.form.rows, numbers)], part, self.form.columns))
                continue
            if not any(part.rows):
                rows = self._one_layer(kept, part)
            elif all(part.rows) and group > 1:
                flat = kept.reshape(-1, group * kept.shape[-1])
                rows = self._gather(flat, self._offset(index, part, self.shape[0] // group)).reshape(-1, kept.shape[-1])
            else:
                own = _number_in(part, self.form.rows, numbers)
                rows = self._gather(kept.reshape(-1, kept.shape[-1]), self._offset(own, part, kept.shape[-2]))
            parts.append(_expand(rows, part, self.form.columns))
        return self._computed(parts, (len(numbers),))

    def whole(self) -> jax.Array:
        """All rows: ``[n, d]``."""
        parts = []
        for part, kept in self._parts():
            rows = kept if part.constant is not None else self._one_layer(kept, part)
            lengths = [n if held else 1 for n, held in zip(self.form.rows, part.rows, strict=True)]
            lengths += [n if held else 1 for n, held in zip(self.form.columns, part.columns, strict=True)]
            parts.append(rows.reshape(lengths))
        return self._computed(parts, self.form.rows)

    def product(self, x: jax.Array, *, precise: bool = False) -> jax.Array:
        """``x [b, d]`` times all rows, in float32: ``[b, n]``."""
        if x.shape[0] == 1 or not self.target.rows_one_by_one:
            return rows_dot(x, self.whole(), precise=precise, target=self.target)
        if x.shape[0] <= ONE_BY_ONE:
            return for_each_row(lambda row: rows_dot(row, self.whole(), precise=precise), x)
        # XLA:CPU would make the whole matrix first.
        n = self.shape[0]
        pieces = -(-n // _PIECE)
        numbers = jnp.minimum(jnp.arange(pieces * _PIECE, dtype=jnp.int32), n - 1).reshape(pieces, _PIECE)
        parts = lax.map(lambda some: rows_dot(x, self.take(some), precise=precise), numbers)
        return parts.transpose(1, 0, 2).reshape(x.shape[0], -1)[:, :n]

    def chosen_products(self, x: jax.Array, ids: jax.Array, *, precise: bool = False) -> jax.Array:
        """Every ``x [b, d]`` times rows of its own, ``ids [b, k]``, in float32: ``[b, k]``."""
        if self.target.rows_one_by_one:
            return for_each_row(lambda row, own: rows_dot(row, self.take(own[0]), precise=precise), x, ids)
        rows = self.take(ids.reshape(-1)).reshape(*ids.shape, -1)  # one gather for the batch
        precision = lax.Precision.HIGHEST if precise else None
        return jnp.einsum("bd,bkd->bk", x.astype(jnp.float32), rows.astype(jnp.float32), precision=precision)

    def _parts(self) -> list[tuple[PartForm, jax.Array]]:
        kept = iter(self.kept)
        split = len(self.form.rows)
        return [
            (part, next(kept))
            if part.constant is None
            else (part, jnp.asarray(_matrix(part.constant.array(), split), part.dtype))
            for part in self.form.parts
        ]

    def _offset(self, numbers: jax.Array, part: PartForm, rows: int) -> jax.Array:
        if not part.stacked or self.layer is None:
            return numbers
        return numbers + self.layer.astype(jnp.int32) * rows

    def _gather(self, rows: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.take(store_part(rows, self.target), index, axis=0, mode="clip")

    def _one_layer(self, kept: jax.Array, part: PartForm) -> jax.Array:
        if not part.stacked or self.layer is None:
            return kept
        return lax.dynamic_index_in_dim(kept, self.layer, keepdims=False)

    def _computed(self, parts: Sequence[jax.Array], rows: tuple[int, ...]) -> jax.Array:
        read = [_load(array, part) for array, part in zip(parts, self.form.parts, strict=True)]
        numbers = self.form.code.evaluate(read, exact=True)
        return jnp.broadcast_to(numbers, (*rows, *self.form.columns)).reshape(prod(rows), -1)


def _number_in(part: PartForm, factors: Sequence[int], numbers: jax.Array) -> jax.Array:
    """Which row of a part belongs to each row of the matrix."""
    if all(part.rows):
        return numbers
    found, stride, inner = jnp.zeros_like(numbers), 1, 1
    for n, held in zip(reversed(factors), reversed(part.rows), strict=True):
        if held:
            found, stride = found + numbers // inner % n * stride, stride * n
        inner *= n
    return found


def _expand(rows: jax.Array, part: PartForm, factors: Sequence[int]) -> jax.Array:
    return rows.reshape(len(rows), *(n if held else 1 for n, held in zip(factors, part.columns, strict=True)))


def _matrix(array: np.ndarray, split: int) -> np.ndarray:
    return array.reshape(prod(array.shape[:split]), -1)


def store_part(array: jax.Array, target: Target) -> jax.Array:
    """The form in which a part is kept: types that XLA:CPU would widen as a whole, as bits."""
    if str(array.dtype) in ("int4", "uint4") and not target.has_int4:
        return array.astype(jnp.int8 if array.dtype == jnp.int4 else jnp.uint8)  # gathered four times as fast
    return bits_of(array) if target.bf16_as_bits and keeps_as_bits(str(array.dtype)) else array


def keeps_as_bits(dtype: str) -> bool:
    """Whether a type is one of narrow floats, which XLA:CPU converts as a whole before it gathers."""
    return dtype == "bfloat16" or dtype.startswith("float8")


def _load(array: jax.Array, part: PartForm) -> jax.Array:
    if str(array.dtype) == part.dtype:
        return array
    wanted = jnp.dtype(part.dtype)
    return array.astype(wanted) if part.dtype in ("int4", "uint4") else lax.bitcast_convert_type(array, wanted)
