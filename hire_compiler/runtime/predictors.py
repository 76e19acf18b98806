"""Predictors: a compressed copy of a weight, and scores from it (method.md: z̃ = W̃x).

Every predictor is a pair of functions: ``prepare_*`` makes its arrays once from the weight, and
:func:`predict` reads them once per token. The names of the arrays say which predictor they belong to.
"""

from __future__ import annotations

import jax
from jax import lax

from hire_compiler.runtime.low_rank import factor_for, low_rank_scores, prepare_low_rank
from hire_compiler.runtime.quantized import int4_scores, native_int4, prepare_int4, prepare_quantized, quantized_scores
from hire_compiler.runtime.target import Target, own_rows_dot, take_rows

Arrays = dict[str, jax.Array]

PREDICTOR_ARRAYS = ("a", "a_rows", "b", "b_scale", "q", "scale", "q4", "scale4")


def predict(
    x: jax.Array, prepared: Arrays, target: Target, layer: jax.Array | None = None, *, precise: bool = False
) -> jax.Array:
    """Predicted scores of all rows; of a cascade, the coarse ones.

    Args:
      x: ``[b, d]``.
      prepared: what a ``prepare_…`` returned, stored for the target; of a cascade the arrays of both passes.
      layer: which layer, where the arrays are stacked ``[layers, …]``.
      precise: a proof rests on the scores (of ``Quantized(8)``): inputs are not rounded on the way.

    Returns:
      ``[b, n]`` float32.
    """
    if layer is not None:
        prepared = {name: lax.dynamic_index_in_dim(stack, layer, keepdims=False) for name, stack in prepared.items()}
    if "b" in prepared:
        return low_rank_scores(x, prepared, target)
    if "q4" in prepared:
        return int4_scores(x, prepared, target)
    return quantized_scores(x, prepared, target, precise=precise)


def kept_for(prepared: Arrays, d: int, target: Target) -> Arrays:
    """What a ``prepare_…`` made of rows of length d, in the types in which a platform keeps it."""
    kept = dict(prepared)
    if "q4" in kept and target.has_int4:
        kept |= native_int4(kept, d)
    if "a" in kept:
        kept |= factor_for(kept.pop("a"), target)
    return kept


def is_cascade(prepared: Arrays) -> bool:
    """Whether there is a finer copy behind the coarse one."""
    return "b" in prepared and "q" in prepared


def refine(x: jax.Array, prepared: Arrays, ids: jax.Array, target: Target) -> jax.Array:
    """The finer scores of a cascade for rows ``ids [b, s]``: ``[b, s]`` float32."""
    flat = take_rows(prepared["scale"], ids.reshape(-1), target)
    return own_rows_dot(x, prepared["q"], ids, target) * flat.reshape(ids.shape)


__all__ = [
    "PREDICTOR_ARRAYS", "Arrays", "is_cascade", "kept_for", "predict", "prepare_int4", "prepare_low_rank",
    "prepare_quantized", "refine",
]  # fmt: skip
