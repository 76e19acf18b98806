"""Logits on which proofs are hard (tied, nearly tied, of unusual size), and tokens beside those of dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire

V, D = 1024, 24
STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=192, certify="strict"),)
)
Tail = Callable[[jax.Array, Any], Any]


def gaussian(rng: np.random.Generator) -> np.ndarray:
    """Rows without ties."""
    return rng.normal(size=(V, D))


def near_ties(rng: np.random.Generator) -> np.ndarray:
    """Every row some four times, some of its numbers one ulp apart."""
    rows = gaussian(rng)[rng.integers(0, V // 4, V)].astype(np.float32)
    return np.where(rng.random(rows.shape) < 0.3, np.nextafter(rows, np.float32(np.inf)), rows)


def ties(rng: np.random.Generator) -> np.ndarray:
    """Every row some four times, of whole numbers."""
    return np.round(gaussian(rng)[rng.integers(0, V // 4, V)])


def inputs(rng: np.random.Generator, batch: int, call: int, dtype: Any = "float32") -> jax.Array:
    """Inputs of several sizes; in some calls one of them is zero, NaN or large, in some a whole number."""
    x = rng.normal(size=(batch, D)) * rng.choice([0.3, 1.0, 4.0])
    if call % 4 == 1:
        x[0] = (0.0, np.nan, 1e4)[call % 3]
    if call % 4 == 2:
        x[0] = np.round(x[0])
    return jnp.asarray(x, dtype)


def check_tokens(
    tail: Tail, request: Callable[[np.random.Generator, int, int], Any], rng: np.random.Generator, rows: int,
    batch: int = 8, config: hire.Config = STRICT,
) -> hire.Report:  # fmt: skip
    """Compare every result of a tail with dense, a third of the rows each on normal, nearly tied and tied logits.

    Returns:
      The report after the normal ones, on which proofs should hold.
    """
    dense = jax.jit(lambda w, x, q: tail(x @ w.T, q))
    fast = hire.transform(dense, config)
    reports = []
    for make in (gaussian, near_ties, ties):
        w = jnp.asarray(make(rng), jnp.float32)
        for call in range(max(rows // (3 * batch), 1)):
            x, q = inputs(rng, batch, call), request(rng, batch, V)
            jax.tree.map(np.testing.assert_array_equal, fast(w, x, q), dense(w, x, q))
        reports.append(fast.report())
    return reports[0]
