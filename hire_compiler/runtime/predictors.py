"""Predictors: compressed copies of a weight, and scores from them (method.md: z̃ = W̃x).

Each kind of copy is a :class:`Record` in a module of its own. A predictor is one copy, or a coarse and a fine one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.runtime import low_rank, quantized
from hire_compiler.runtime.pieces import in_pieces
from hire_compiler.runtime.record import Arrays, Copy, Record
from hire_compiler.runtime.target import Target

RECORDS: dict[str, Record] = low_rank.RECORDS | quantized.RECORDS  # coarse ones first
PREDICTOR_ARRAYS = tuple(name for record in RECORDS.values() for name in record.arrays)


def prepare_copies(
    rows: jax.Array,
    copies: Sequence[Copy],
    moment: np.ndarray | jax.Array | None,
    *,
    stacked: bool,
    target: Target | None = None,
) -> Arrays:
    """The copies of a predictor of rows ``[n, d]``, or stacked; ``moment`` is E[xxᵀ] of their input, if known.

    Args:
      target: prepare in pieces as large as this platform wants them; None for all at once.
    """
    made: Arrays = {}
    for name, options in copies:
        record = RECORDS[name]
        make = partial(_prepare_one, record, options)
        given = (rows,) if moment is None or not record.learns else (rows, jnp.asarray(moment))
        if not stacked and record.by_rows and target is not None:
            made |= in_pieces(lambda part, make=make: make((part,)), (rows,), target)
        elif not stacked:
            made |= make(given)
        else:
            made |= lax.map(make, given) if record.one_by_one else jax.vmap(make)(given)
    return made


def _prepare_one(record: Record, options: Mapping[str, Any], given: tuple[jax.Array, ...]) -> Arrays:
    rows, *moment = given
    return record.prepare(rows, *(moment or [None]), **options)


def held(prepared: Arrays) -> list[Record]:
    """The records whose copies are among prepared arrays, the coarse one first."""
    found = [record for record in RECORDS.values() if not prepared.keys().isdisjoint(record.arrays)]
    if not found:
        raise KeyError(f"no predictor has {sorted(prepared)}")
    return found


def predict(
    x: jax.Array, prepared: Arrays, target: Target, layer: jax.Array | None = None, *, precise: bool = False
) -> jax.Array:
    """Predicted scores of all rows; of a cascade, the coarse ones.

    Args:
      x: ``[b, d]``.
      prepared: what :func:`prepare_copies` made, stored for the target; of a cascade the arrays of both passes.
      layer: which layer, where the arrays are stacked ``[layers, …]``.
      precise: a proof rests on the scores (of ``Quantized(8)``): inputs are not rounded on the way.

    Returns:
      ``[b, n]`` float32.
    """
    if layer is not None:
        prepared = {name: lax.dynamic_index_in_dim(stack, layer, keepdims=False) for name, stack in prepared.items()}
    return held(prepared)[0].scores(x, prepared, target, precise=precise)


def kept_for(prepared: Arrays, d: int, target: Target) -> Arrays:
    """What was prepared of rows of length d, in the types in which a platform keeps it."""
    kept: Arrays = {}
    for record in held(prepared) if prepared else ():
        own = {name: prepared[name] for name in record.arrays if name in prepared}
        kept |= record.kept(own, d, target)
    return kept


def matrices_of(prepared: Arrays, d: int) -> list[tuple[jax.Array, ...]]:
    """The copies as prepared, the coarse one first, as the float32 matrices of :class:`Record`."""
    return [record.matrices(prepared, d) for record in held(prepared)]


def is_cascade(prepared: Arrays) -> bool:
    """Whether there is a finer copy behind the coarse one."""
    return len(held(prepared)) > 1


def refine(x: jax.Array, prepared: Arrays, ids: jax.Array, target: Target) -> jax.Array:
    """The finer scores of a cascade for rows ``ids [b, s]``: ``[b, s]`` float32."""
    fine = held(prepared)[-1].refine
    assert fine is not None, "the second pass of a cascade is a copy of which single rows can be read"
    return fine(x, prepared, ids, target)


__all__ = [
    "PREDICTOR_ARRAYS", "RECORDS", "Arrays", "held", "is_cascade", "kept_for", "matrices_of", "predict",
    "prepare_copies", "refine",
]  # fmt: skip
