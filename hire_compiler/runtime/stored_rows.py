"""Stored rows: the one door to a head's matrix, which alone knows how it is kept.

A matrix may lie by rows or by columns, and as bits of bfloat16 that must never be read as numbers. Whoever wants
products asks for them here.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.narrow_rows import NarrowRows
from hire_compiler.runtime.target import Target, dot_of_few, for_each_row, load, own_rows_dot, rows_dot, store, unfused


@dataclass(frozen=True)
class StoredRows:
    """The rows of a matrix, ``[n, d]``.

    Attributes:
      kept: ``[n, d]``, or ``[d, n]`` if ``by_columns``; for the target's sake perhaps as bits, or narrow. Not to be
        read directly.
      by_columns: it lies as the author has it, and a row is gathered entry by entry. For a few hundred rows
        that costs less than a copy of all of them.
    """

    kept: jax.Array | NarrowRows
    target: Target
    by_columns: bool = False

    def chosen_products(self, x: jax.Array, ids: jax.Array, *, precise: bool = False) -> jax.Array:
        """Every ``x [b, d]`` times rows of its own, ``ids [b, k]``, in float32: ``[b, k]``."""
        if isinstance(self.kept, NarrowRows):
            return self.kept.chosen_products(x, ids, precise=precise)
        if not self.by_columns:
            return own_rows_dot(x, self.kept, ids, self.target, precise=precise)

        def one(row: jax.Array, own: jax.Array) -> jax.Array:
            return rows_dot(row, self._columns(own[0]).T, precise=precise)

        return for_each_row(one, x, ids)

    def products(self, x: jax.Array, *, precise: bool = False) -> jax.Array:
        """``x [b, d]`` times all rows, in float32: ``[b, n]``; in the fast form, not in the author's."""
        if isinstance(self.kept, NarrowRows):
            return unfused(self.kept.product(x, precise=precise), self.target)
        if not self.by_columns:
            return unfused(dot_of_few(x, self.kept, self.target, precise=precise), self.target)
        return unfused(self._by_columns(x.astype(jnp.float32), precise), self.target)

    def _columns(self, ids: jax.Array) -> jax.Array:
        assert not isinstance(self.kept, NarrowRows), "narrow rows lie by rows"
        return load(jnp.take(store(self.kept, self.target), ids, axis=1, mode="clip"))

    def _by_columns(self, x: jax.Array, precise: bool) -> jax.Array:
        assert not isinstance(self.kept, NarrowRows), "narrow rows lie by rows"
        d, n = self.kept.shape
        precision = lax.Precision.HIGHEST if precise else None
        chunk = max(self.target.chunk_bytes // (4 * d), 1)
        if self.kept.dtype == jnp.float32 or not self.target.bf16_as_bits or chunk >= n:
            return jnp.dot(x, load(self.kept).astype(jnp.float32), precision=precision)
        bits = store(self.kept, self.target)

        def part(start: jax.Array | int, size: int) -> jax.Array:
            narrow = load(lax.dynamic_slice_in_dim(bits, start, size, axis=1))
            return jnp.dot(x, narrow.astype(jnp.float32), precision=precision)

        def body(i: jax.Array, out: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(out, part(i * chunk, chunk), i * chunk, axis=1)

        out = lax.fori_loop(0, n // chunk, body, jnp.zeros((x.shape[0], n), jnp.float32))
        rest = n % chunk
        return lax.dynamic_update_slice_in_dim(out, part(n - rest, rest), n - rest, axis=1) if rest else out
