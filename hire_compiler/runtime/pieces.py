"""A large matrix piece by piece: what is made of each row by itself needs no second matrix beside it on the way."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.checks import all_of
from hire_compiler.runtime.record import Arrays
from hire_compiler.runtime.target import Target, load, store


def in_pieces(make: Callable[..., Arrays], given: tuple[jax.Array, ...], target: Target) -> Arrays:
    """What ``make`` makes of the rows of some arrays, a few rows at a time: the same numbers.

    Args:
      make: from the arrays to others, each of which has one dimension that grows with the number of rows. No row may
        depend on another.
      given: ``[n, …]`` each.
    """
    rows = given[0].shape[0]
    size = target.piece_bytes // (4 * max(given[0].size // rows, 1))
    if size < 1 or 2 * size > rows:
        return make(*given)
    whole, part = (jax.eval_shape(make, *(_cut(one, n) for one in given)) for n in (rows, size))
    axes = {name: _grown(whole[name].shape, part[name].shape) for name in whole}
    stored = [store(one, target) for one in given]

    def piece(i: jax.Array, made: Arrays) -> Arrays:
        start = jnp.minimum(i * size, rows - size)  # the last piece begins in the one before it
        own = make(*(load(lax.dynamic_slice_in_dim(one, start, size)) for one in stored))
        return {
            name: lax.dynamic_update_slice_in_dim(array, own[name], start, axes[name]) for name, array in made.items()
        }

    empty = {name: jnp.zeros(kind.shape, kind.dtype) for name, kind in whole.items()}
    return lax.fori_loop(0, -(-rows // size), piece, empty)


def all_in_pieces(check: Callable[[jax.Array], jax.Array], array: jax.Array, target: Target | None) -> jax.Array:
    """Whether a check of single numbers holds for all of an array.

    Args:
      target: on which it runs; None to check all at once, as arrays on several devices are.
    """
    matrix = array.reshape(-1, array.shape[-1]) if array.size and array.ndim else array.reshape(1, -1)
    size = 0 if target is None else target.piece_bytes // (4 * max(matrix.shape[1], 1))
    rows = matrix.shape[0]
    if target is None or size < 1 or 2 * size > rows or not array.size:
        return all_of(check(array))
    stored = store(matrix, target)

    def piece(i: jax.Array, held: jax.Array) -> jax.Array:
        start = jnp.minimum(i * size, rows - size)
        return held & all_of(check(load(lax.dynamic_slice_in_dim(stored, start, size))))

    return lax.fori_loop(0, -(-rows // size), piece, jnp.ones((), bool))


def _cut(array: jax.Array, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype)


def _grown(whole: tuple[int, ...], part: tuple[int, ...]) -> int:
    """The dimension that is longer for more rows."""
    return next(i for i, (long, short) in enumerate(zip(whole, part, strict=True)) if long != short)
