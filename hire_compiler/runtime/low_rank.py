"""HiRE-LR: two thin factors, the best of their rank for the scores of the inputs that calibration saw."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.weight import itemsize
from hire_compiler.runtime.quantized import prepare_quantized
from hire_compiler.runtime.record import Arrays, Record
from hire_compiler.runtime.target import Target, columns_dot, dot_of_few


def prepare_low_rank(rows: jax.Array, rank: int, moment: jax.Array | None, dtype: str) -> Arrays:
    """The factors of rank r that are best for the scores of inputs with second moment C = E[xxᵀ].

    With C = LLᵀ the expected squared error of the scores is ‖(W − W̃)L‖², so the best W̃ keeps the first r right
    singular vectors V of WL: W̃ = (W·LV)(VᵀL⁻¹). They come from the Gram matrix (WL)ᵀ(WL), which is d × d whatever
    the number of rows and needs no gather of a sharded W.

    Args:
      rows: ``[n, d]``.
      rank: r ≤ d.
      moment: ``[d, d]`` float32, or None for a plain SVD (C = I).
      dtype: storage type of the long factor.

    Returns:
      ``a`` ``[d, r]`` and ``b`` ``[n, r]`` with z̃ = (x·a)·bᵀ; for int8 also ``b_scale`` ``[n]``, a factor of z̃.
      ``a`` is float32, or bfloat16 where the rows and ``b`` are: rounding it costs what rounding x has cost there.
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
    if dtype != "int8":
        return {"a": a.astype(dtype if rows.dtype == dtype else jnp.float32), "b": b.astype(dtype)}
    # A row has one scale, and its leading columns are far larger than the rest: brought to equal size first, they
    # share its range; the sizes move into ``a``.
    size = jnp.sqrt(jnp.mean(b * b, axis=0)) + jnp.finfo(jnp.float32).tiny
    copy = prepare_quantized(b / size)
    return {"a": (a * size).astype(jnp.float32), "b": copy["q"], "b_scale": copy["scale"]}


def factor_for(a: jax.Array, target: Target) -> Arrays:
    """The first factor as a platform keeps it: ``a`` ``[…, d, r]`` or ``a_rows`` ``[…, r, d]``.

    XLA:CPU divides a matrix-vector product between its threads if the matrix is stored row by row, not otherwise, and
    reads narrow rows as they are up to some length.
    """
    if target.rounds_operands:
        return {"a": a.astype(jnp.bfloat16)}
    if not target.rows_one_by_one:
        return {"a": a}
    if a.shape[-2] < target.fused_vector:
        return {"a_rows": jnp.swapaxes(a, -1, -2)}
    return {"a": a.astype(jnp.float32)}


def low_rank_scores(x: jax.Array, prepared: Arrays, target: Target, *, precise: bool = False) -> jax.Array:
    """``[b, n]`` float32 from ``x [b, d]`` and what :func:`prepare_low_rank` made, ``a`` as it is or as rows."""
    if "a_rows" in prepared:
        hidden = dot_of_few(x.astype(jnp.float32), prepared["a_rows"], target)
    else:
        hidden = columns_dot(x, prepared["a"], target=target)
    scores = dot_of_few(hidden, prepared["b"], target)
    return scores * prepared["b_scale"] if "b_scale" in prepared else scores


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


def _stored_bytes(n: int, d: int, source: str, *, rank: int, dtype: str) -> int:
    row = rank + 4 if dtype == "int8" else rank * itemsize(dtype)
    return n * row + rank * itemsize(dtype if dtype == source else "float32") * d


def _misfit(d: int, *, rank: int, dtype: str) -> str:
    return f"rank {rank} is more than the input width d = {d}" if rank > d else ""


def _kept(arrays: Arrays, d: int, target: Target) -> Arrays:
    rest = {name: array for name, array in arrays.items() if name != "a"}
    return rest | factor_for(arrays["a"], target)


def _matrices(arrays: Arrays, d: int) -> tuple[jax.Array, ...]:
    b = arrays["b"].astype(jnp.float32)
    return arrays["a"].astype(jnp.float32).T, b * arrays["b_scale"][:, None] if "b_scale" in arrays else b


RECORDS = {
    "low_rank": Record(
        arrays=("a", "a_rows", "b", "b_scale"),
        prepare=lambda rows, moment, *, rank, dtype: prepare_low_rank(rows, rank, moment, dtype),
        scores=low_rank_scores,
        matrices=_matrices,
        stored_bytes=_stored_bytes,
        misfit=_misfit,
        kept=_kept,
        learns=True,
        one_by_one=True,
    )
}
