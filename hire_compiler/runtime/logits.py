"""HiRE-Softmax: exact logits on the candidates, and what the rest of the vocabulary gets."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hire_compiler.runtime.predictors import Arrays, is_cascade, predict, refine
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target
from hire_compiler.runtime.topk import Compare, bucket_winners, compared_candidates

Compared = Sequence[Compare]


def exact_logits(x: jax.Array, rows: StoredRows, ids: jax.Array, *, precise: bool = False) -> jax.Array:
    """Logits of some rows only.

    Args:
      x: ``[b, d]``.
      rows: the output matrix.
      ids: int32 ``[b, k]``.

    Returns:
      ``[b, k]`` float32.
    """
    return rows.chosen_products(x, ids, precise=precise)


def select_candidates(
    x: jax.Array,
    prepared: Arrays,
    k: int,
    target: Target,
    *,
    compared: Compared = (),
    survivors: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """The ``k`` most promising rows by a predictor.

    Args:
      x: ``[b, d]``.
      prepared: the arrays of the predictor.
      compared: from logits to what the program compares.
      survivors: of a cascade: how many rows the finer copy scores.

    Returns:
      ``(ids [b, k] ascending, scores [b, n])``; of a cascade the scores are the finer ones on the survivors.
    """
    scores = predict(x, prepared, target)
    if not is_cascade(prepared) or k == scores.shape[1]:
        return compared_candidates(scores, k, compared, target), scores
    share = survivors // max(len(compared), 1)
    passed = [bucket_winners(f(scores, None), share) for f in compared] or [bucket_winners(scores, share)]
    left = passed[0] if len(passed) == 1 else jnp.concatenate(passed, axis=1)
    fine = refine(x, prepared, left, target)
    at = compared_candidates(fine, k, compared, target, left)
    batch = jnp.arange(x.shape[0])[:, None]
    return jnp.sort(jnp.take_along_axis(left, at, axis=1), axis=1), scores.at[batch, left].set(fine)


def candidate_logits(
    x: jax.Array,
    rows: StoredRows,
    prepared: Arrays,
    k: int,
    target: Target,
    *,
    compared: Compared = (),
    survivors: int = 0,
    precise: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The ``k`` most promising rows and their exact logits: ``(ids [b, k] ascending, logits [b, k])``."""
    ids, _ = select_candidates(x, prepared, k, target, compared=compared, survivors=survivors)
    return ids, exact_logits(x, rows, ids, precise=precise)


def fill_tail(scores: jax.Array, ids: jax.Array, exact: jax.Array, tail: str) -> jax.Array:
    """Logits ``[b, n]``: the exact ones of the candidates ``ids [b, k]``, put into what the rest gets.

    Args:
      scores: ``[b, n]``, as predicted.
      tail: ``"predicted"`` keeps the predicted logit of every other row, so that the normaliser of a
        softmax stays right; ``"dropped"`` makes it −inf (the paper's top-k softmax).
    """
    rest = scores if tail == "predicted" else jnp.full_like(scores, -jnp.inf)
    return rest.at[jnp.arange(scores.shape[0])[:, None], ids].set(exact)
