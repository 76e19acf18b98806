"""What there is to know of one kind of compressed copy, in one record: a predictor is made of one or two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from hire_compiler.runtime.target import Target

Arrays = dict[str, jax.Array]
Copy = tuple[str, Mapping[str, Any]]  # the name of a record, and the options of a predictor


def _as_it_is(arrays: Arrays, d: int, target: Target) -> Arrays:
    return arrays


def _fits(d: int, **options: Any) -> str:
    return ""


@dataclass(frozen=True)
class Record:
    """How a copy of rows ``[n, d]`` is made, kept, read and paid for; ``options`` are those of the predictor.

    Attributes:
      arrays: names of the arrays that it may have, which no other record uses.
      prepare: ``(rows, moment, **options)`` to the arrays; ``moment`` is E[xxᵀ] of their input, or None.
      scores: ``(x [b, d], arrays, target, precise=…)`` to ``[b, n]`` float32; ``precise``: a proof rests on them.
      matrices: ``(arrays, d)`` to float32 matrices, ``[n, d]`` or ``[r, d]`` and ``[n, r]``: one product with each, in
        that order, gives the scores. A calibration scores many inputs with them.
      stored_bytes: ``(n, d, dtype of the rows, **options)``.
      passes: how often a call reads what is stored.
      misfit: ``(d, **options)`` to why they cannot stand for rows of that length, with the way out; or ''.
      kept: ``(arrays, d, target)`` to the arrays in the types in which a platform keeps them.
      refine: ``(x, arrays, ids [b, s], target)`` to the scores of those rows alone, ``[b, s]``: it can be the second
        pass of a cascade.
      learns: it uses the moment.
      unpacks: stored numbers are unpacked again for every row of a batch, where the platform has no such type.
      one_by_one: layers of a stack are prepared one after the other: together they would multiply its memory.
      by_rows: what is made of a row is bit for bit the same beside any others: a large matrix is prepared in pieces.
    """

    arrays: tuple[str, ...]
    prepare: Callable[..., Arrays]
    scores: Callable[..., jax.Array]
    matrices: Callable[[Arrays, int], tuple[jax.Array, ...]]
    stored_bytes: Callable[..., int]
    passes: int = 1
    misfit: Callable[..., str] = _fits
    kept: Callable[[Arrays, int, Target], Arrays] = _as_it_is
    refine: Callable[[jax.Array, Arrays, jax.Array, Target], jax.Array] | None = None
    learns: bool = False
    unpacks: bool = False
    one_by_one: bool = False
    by_rows: bool = False
