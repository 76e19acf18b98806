"""Certificates: prove from bounds that no row outside the candidates can be among the winners.

For the quantised copy w̃_i of a row w_i and any x: |w_i·x − w̃_i·x| ≤ ‖w_i − w̃_i‖₂ ‖x‖₂ (Cauchy–Schwarz). With the
rounding of the float32 sums on both sides added, ``u_i = z̃_i + bound_i ‖x‖₂`` is an upper bound of every
logit that the dense program could compute. Winners are proven when no excluded u_i reaches the k-th best exact
value; that is *counted*, not read off the selection, so it holds for approximate top-k forms too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.predictors import Arrays

Values = Callable[[jax.Array, Sequence[jax.Array]], jax.Array]


def gamma(d: int) -> float:
    """Worst relative error of a float32 sum of d products: d·u / (1 − d·u), u = 2⁻²⁴."""
    unit = float(jnp.finfo(jnp.float32).eps) / 2
    return d * unit / (1 - d * unit)


def prepare_bound(rows: jax.Array, quantized: Arrays) -> Arrays:
    """Per row, how far a logit can be from its prediction, for ‖x‖₂ = 1.

    Args:
      rows: ``[n, d]``.
      quantized: what ``prepare_quantized`` made of them.

    Returns:
      ``bound`` and ``norm`` (‖w_i‖₂), float32 ``[n]``, both rounded up.
    """
    wide, d = rows.astype(jnp.float32), rows.shape[1]
    error = jnp.linalg.norm(wide - quantized["q"].astype(jnp.float32) * quantized["scale"][:, None], axis=1)
    norm = jnp.linalg.norm(wide, axis=1) * (1 + gamma(d))
    # The prediction and the dense product both round: γ each, on rows of about the same norm.
    slack = (2 * gamma(d) + 8 * float(jnp.finfo(jnp.float32).eps)) * (norm + error)
    return {"bound": error * (1 + gamma(d)) + slack, "norm": norm}


def upper_bounds(scores: jax.Array, bound: jax.Array, x: jax.Array) -> jax.Array:
    """``u_i`` for every row: ``[b, n]`` float32, from scores ``[b, n]`` and x ``[b, d]``."""
    return scores + bound * _length(x)


def rounding_slack(norm: jax.Array, x: jax.Array) -> jax.Array:
    """γ_d ‖w‖ ‖x‖: how far a float32 logit can be from the real number. ``[b, k]`` from norms ``[b, k]``."""
    return gamma(x.shape[1]) * norm * _length(x)


def winners_proven(
    exact: jax.Array,
    slack: jax.Array,
    upper: jax.Array,
    ids: jax.Array,
    values: Values,
    vectors: Sequence[jax.Array],
    k: int,
    *,
    strict: bool,
) -> jax.Array:
    """For every batch row, whether its ``k`` winners are proven.

    Args:
      exact: logits of the candidates, ``[b, c]``.
      slack: how far the candidates' logits may be from dense's, ``[b, c]``.
      upper: upper bounds of all logits, ``[b, n]``.
      ids: the candidates, ``[b, c]``.
      values: the program's own increasing code from logits and vectors to the compared values.
      vectors: its vocabulary vectors, ``[n]`` each.
      strict: prove the *order* of dense as well: neighbours among the first k + 1 are further apart than both
        their roundings. Otherwise values that are equal up to that slack may change places.

    Returns:
      bool ``[b]``.
    """
    own = [vector[ids] for vector in vectors]
    best = lax.top_k(values(exact, own), min(k + 1, exact.shape[1]))[1]
    low = values(exact - slack, own) if strict else values(exact, own)
    high = values(exact + slack, own)
    low, high = (jnp.take_along_axis(side, best, axis=1) for side in (low, high))
    threshold = low[:, k - 1 : k]
    reach = values(upper, vectors) >= threshold
    inside = jnp.take_along_axis(reach, ids, axis=1)
    proven = jnp.sum(reach, axis=1, dtype=jnp.int32) == jnp.sum(inside, axis=1, dtype=jnp.int32)
    proven &= jnp.isfinite(exact).all(axis=1) & jnp.isfinite(threshold[:, 0])
    if strict and best.shape[1] > 1:
        apart = low[:, :-1] > high[:, 1:]
        proven &= apart[:, :k].all(axis=1)
    return proven


def _length(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return jnp.linalg.norm(wide, axis=1, keepdims=True) * (1 + gamma(x.shape[1]))
