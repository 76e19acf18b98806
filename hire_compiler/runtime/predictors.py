"""Predictors: a compressed copy of a weight, and scores from it (method.md: z̃ = W̃x).

Every predictor is a pair of functions: ``prepare_*`` makes its arrays once from the weight, and
:func:`predict` reads them once per token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.target import Target, for_each_row, load, rows_dot

Arrays = dict[str, jax.Array]


def prepare_quantized(rows: jax.Array) -> Arrays:
    """HiRE-Q: an int8 copy with one scale per row.

    Args:
      rows: ``[n, d]``, any float type.

    Returns:
      ``q`` int8 ``[n, d]`` and ``scale`` float32 ``[n]``, with ``rows ≈ q · scale``. An all-zero row has
      scale 0.
    """
    wide = rows.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=1) / 127
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    q = jnp.clip(jnp.round(wide * inverse[:, None]), -127, 127).astype(jnp.int8)
    return {"q": q, "scale": scale}


def prepare_low_rank(rows: jax.Array, rank: int, moment: jax.Array | None, dtype: str) -> Arrays:
    """HiRE-LR: the factors of rank r that are best for the scores of inputs with second moment C = E[xxᵀ].

    With C = LLᵀ the expected squared error of the scores is ‖(W − W̃)L‖², so the best W̃ keeps the first r right
    singular vectors V of WL: W̃ = (W·LV)(VᵀL⁻¹). They come from the Gram matrix (WL)ᵀ(WL), which is d × d whatever
    the number of rows and needs no gather of a sharded W.

    Args:
      rows: ``[n, d]``.
      rank: r ≤ d.
      moment: ``[d, d]`` float32, or None for a plain SVD (C = I).
      dtype: storage type of the factors.

    Returns:
      ``a`` ``[d, r]`` and ``b`` ``[n, r]`` with z̃ = (x·a)·bᵀ.
    """
    d = rows.shape[1]
    wide = rows.astype(jnp.float32)
    precision = lax.Precision.HIGHEST
    gram = jnp.matmul(wide.T, wide, precision=precision)
    factor = _cholesky(moment, d)
    weighted = jnp.matmul(factor.T, jnp.matmul(gram, factor, precision=precision), precision=precision)
    leading = leading_eigenvectors((weighted + weighted.T) / 2, rank)
    a = jax.scipy.linalg.solve_triangular(factor.T, leading, lower=False)
    b = jnp.matmul(wide, jnp.matmul(factor, leading, precision=precision), precision=precision)
    return {"a": a.astype(jnp.float32), "b": b.astype(dtype)}


def leading_eigenvectors(symmetric: jax.Array, rank: int) -> jax.Array:
    """The ``rank`` leading eigenvectors of a positive semidefinite matrix, as columns ``[d, rank]``.

    Exact for small matrices; for large ones subspace iteration, whose span holds all but a fraction of a
    percent of the same energy at a fraction of the time (a full decomposition takes d³).
    """
    d, width = symmetric.shape[0], min(rank + 32, symmetric.shape[0])
    if d <= 1024 or 2 * width > d:
        return jnp.linalg.eigh(symmetric)[1][:, ::-1][:, :rank]
    precision = lax.Precision.HIGHEST

    def iterate(_: int, basis: jax.Array) -> jax.Array:
        return jnp.linalg.qr(jnp.matmul(symmetric, basis, precision=precision))[0]

    start = jax.random.normal(jax.random.key(0), (d, width), jnp.float32)
    basis = lax.fori_loop(0, 8, iterate, jnp.linalg.qr(start)[0])
    small = jnp.matmul(basis.T, jnp.matmul(symmetric, basis, precision=precision), precision=precision)
    rotation = jnp.linalg.eigh((small + small.T) / 2)[1][:, ::-1][:, :rank]
    return jnp.matmul(basis, rotation, precision=precision)


def _cholesky(moment: jax.Array | None, d: int) -> jax.Array:
    if moment is None:
        return jnp.eye(d, dtype=jnp.float32)
    # The ridge keeps directions that the calibration text never used from being thrown away altogether.
    ridge = 1e-3 * jnp.trace(moment) / d + jnp.finfo(jnp.float32).tiny
    return jnp.linalg.cholesky(moment + ridge * jnp.eye(d, dtype=jnp.float32))


def predict(x: jax.Array, prepared: Arrays, target: Target, layer: jax.Array | None = None) -> jax.Array:
    """Predicted scores.

    Args:
      x: ``[b, d]``.
      prepared: what ``prepare_quantized`` or ``prepare_low_rank`` returned, stored for the target.
      layer: which layer, where the arrays are stacked ``[layers, …]``.

    Returns:
      ``[b, n]`` float32.
    """
    if layer is not None:
        prepared = {name: lax.dynamic_index_in_dim(stack, layer, keepdims=False) for name, stack in prepared.items()}
    if "q" in prepared:
        return _small_batch(x.astype(jnp.float32), prepared["q"], target) * prepared["scale"]
    hidden = jnp.dot(x.astype(jnp.float32), prepared["a"])
    return _small_batch(hidden, prepared["b"], target)


def _small_batch(x: jax.Array, rows: jax.Array, target: Target) -> jax.Array:
    rows = load(rows)
    if x.shape[0] == 1 or not target.rows_one_by_one or rows.dtype == jnp.float32:
        return rows_dot(x, rows)
    # XLA:CPU converts the whole copy to float32 in memory before a matrix-matrix product; one fused
    # matrix-vector product per batch row reads the narrow copy instead.
    return for_each_row(lambda row: rows_dot(row, rows), x)
