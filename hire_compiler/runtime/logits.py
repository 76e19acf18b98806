"""HiRE-Softmax: exact logits on the candidates, and what the rest of the vocabulary gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.target import Target, for_each_row, rows_dot, take_rows
from hire_compiler.runtime.topk import compared_candidates

Compared = Sequence[Callable[[jax.Array], jax.Array]]  # from logits to what the program compares


def exact_logits(x: jax.Array, rows: jax.Array, ids: jax.Array, target: Target, *, precise: bool = False) -> jax.Array:
    """Logits of some rows only.

    Args:
      x: ``[b, d]``.
      rows: the output matrix, ``[n, d]``.
      ids: int32 ``[b, k]``.

    Returns:
      ``[b, k]`` float32.
    """
    return for_each_row(lambda row, chosen: rows_dot(row, take_rows(rows, chosen[0], target), precise=precise), x, ids)


def candidate_logits(
    x: jax.Array,
    rows: jax.Array,
    prepared: Arrays,
    k: int,
    target: Target,
    *,
    compared: Compared = (),
    precise: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The ``k`` most promising rows and their exact logits: ``(ids [b, k] ascending, logits [b, k])``."""
    ids = compared_candidates(predict(x, prepared, target), k, compared)
    return ids, exact_logits(x, rows, ids, target, precise=precise)


def sparse_logits(
    x: jax.Array,
    rows: jax.Array,
    prepared: Arrays,
    k: int,
    tail: str,
    target: Target,
    *,
    compared: Compared = (),
    precise: bool = False,
) -> jax.Array:
    """Full-width logits: exact on the ``k`` candidates of every batch row.

    Args:
      tail: ``"predicted"`` keeps the predicted logit of every other row, so that the normaliser of a
        softmax stays right; ``"dropped"`` makes it −inf (the paper's top-k softmax).

    Returns:
      ``[b, n]`` float32.
    """
    scores = predict(x, prepared, target)
    ids = compared_candidates(scores, k, compared)
    exact = exact_logits(x, rows, ids, target, precise=precise)
    rest = scores if tail == "predicted" else jnp.full_like(scores, -jnp.inf)
    return rest.at[jnp.arange(x.shape[0])[:, None], ids].set(exact)
