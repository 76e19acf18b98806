"""Where a predictor puts the rows that really win: from that follows its recall at any number of candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.calibration.what_is_compared import Compared, as_it_is
from hire_compiler.config.predictors import Cascade, Predictor
from hire_compiler.runtime.predictors import matrices_of, prepare_copies
from hire_compiler.runtime.topk import bucket_winners

CHUNK = 32  # rows of input scored at once
Matrices = tuple[jax.Array, ...]


def meets(missed: float, rows: int, recall: float) -> bool:
    """Whether so many misses in so many rows speak for a recall: one more miss, unseen, is allowed for."""
    return (missed + 1) / (rows + 1) <= 1 - recall + 1e-12


def winners_of(rows: jax.Array, inputs: np.ndarray, top: int, compared: Compared = as_it_is) -> np.ndarray:
    """The best ``top`` rows of the matrix ``[n, d]`` for every row of input: int32 ``[N, top]``."""
    best = jax.jit(lambda w, x: jax.lax.top_k(compared(x @ w.T), top)[1])
    wide = rows.astype(jnp.float32)
    return np.concatenate([np.asarray(best(wide, chunk)) for chunk in _chunks(inputs)])[: len(inputs)]


def ranks_of(
    rows: jax.Array,
    predictor: Predictor,
    moment: np.ndarray | None,
    inputs: np.ndarray,
    winners: np.ndarray,
    compared: Compared = as_it_is,
) -> np.ndarray:
    """How many rows a predictor puts before each winner: int64 ``[N, top]``; n where it was not among the survivors.

    Args:
      rows: the matrix ``[n, d]``.
      moment: E[xxᵀ] of the input.
      inputs: float32 ``[N, d]``.
      winners: from :func:`winners_of`.
      compared: what the head makes of its logits, for both.
    """
    arrays = jax.jit(lambda w: prepare_copies(w, predictor.copies, moment, stacked=False))(rows)
    run = jax.jit(_ranks_by(predictor, compared))
    copies = jax.jit(lambda given: matrices_of(given, rows.shape[1]))(arrays)
    found = [np.asarray(run(copies, x, best)) for x, best in zip(_chunks(inputs), _chunks(winners), strict=True)]
    return np.concatenate(found)[: len(inputs)].astype(np.int64)


def _chunks(values: np.ndarray) -> list[np.ndarray]:
    """Parts of equal length; the last is filled up with its own last row."""
    padded = -(-len(values) // CHUNK) * CHUNK
    filled = np.concatenate([values, np.repeat(values[-1:], padded - len(values), axis=0)])
    return [filled[i : i + CHUNK] for i in range(0, padded, CHUNK)]


def _ranks_by(predictor: Predictor, compared: Compared) -> Callable[..., jax.Array]:
    def plain(copies: Sequence[Matrices], x: jax.Array, best: jax.Array) -> jax.Array:
        return _before(compared(_scores(copies[0], x)), best)

    def cascade(copies: Sequence[Matrices], x: jax.Array, best: jax.Array) -> jax.Array:
        assert isinstance(predictor, Cascade)
        first, second = (compared(_scores(copy, x)) for copy in copies)
        left = bucket_winners(first, predictor.survivors)
        passed = jnp.zeros(first.shape, bool).at[jnp.arange(len(x))[:, None], left].set(True)
        before = _before(jnp.where(passed, second, -jnp.inf), best)
        return jnp.where(jnp.take_along_axis(passed, best, axis=1), before, first.shape[1])

    return cascade if isinstance(predictor, Cascade) else plain


def _scores(copy: Matrices, x: jax.Array) -> jax.Array:
    for matrix in copy:
        x = x @ matrix.T
    return x


def _before(scores: jax.Array, best: jax.Array) -> jax.Array:
    """How many other columns do not score less than each of the best; NaN stands behind all."""
    own = jnp.take_along_axis(scores, best, axis=1)
    ahead = jax.lax.map(lambda at: jnp.sum(~(scores < at[:, None]), axis=1), own.T)
    return ahead.T - 1
