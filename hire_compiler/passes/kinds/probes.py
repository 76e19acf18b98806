"""Probes: what an instrumented program returns of its sites beside its own results, and how each is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from hire_compiler.learned.calibration import WINNERS
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.site_match import SiteMatch, moment_key, stack_of
from hire_compiler.runtime.count_active import active_neurons, count_active

ROWS_A_CALL = 32  # input rows that one call leaves for trials


@dataclass(frozen=True)
class Probe:
    """One extra result of an instrumented program.

    Attributes:
      what: the second moment of an input, counts of active neurons, some of the input's rows themselves, or counts of
        the rows that won.
      key: the name a calibration files it under.
      shape: of the result; its first dimension counts the layers where the weights are stacked.
      rows: rows seen in one call (per layer).
      width: neurons that were counted.
      strongest: share of them that was taken for active in each row; None where active means not zero.
      kept: of input rows, how many a calibration keeps.
    """

    what: Literal["moment", "activity", "inputs", "winners"]
    key: str
    shape: tuple[int, ...]
    rows: int
    width: int = 0
    strongest: float | None = None
    kept: int = 64


@dataclass(frozen=True)
class Look:
    """A probe at a product, and what it makes of the product's input (of winners: of its result)."""

    probe: Probe
    dot: WeightDot
    make: Callable[[jax.Array], jax.Array]


def moment_look(match: SiteMatch) -> Look:
    """At the input of a site, of whatever kind: the sum of xxᵀ."""
    dot = match.products[0]
    return Look(Probe("moment", moment_key(match), (*stack_of(match), dot.d, dot.d), dot.batch), dot, _moment)


def _moment(rows: jax.Array) -> jax.Array:
    rows = rows.astype(jnp.float32)
    return jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)


def count_neurons(h: jax.Array, strongest: float | None) -> jax.Array:
    """How many neurons were active, alone and in groups; see :mod:`hire_compiler.runtime.count_active`."""
    return count_active(active_neurons(h, strongest))


def some_rows(rows: jax.Array, count: int) -> jax.Array:
    """Rows at equal distances."""
    return rows[:: len(rows) // count][:count].astype(jnp.float32)


def count_winners(logits: jax.Array) -> jax.Array:
    """How often each row of the vocabulary was among the best."""
    best = jax.lax.top_k(logits.astype(jnp.float32), min(WINNERS, logits.shape[1]))[1]
    return jnp.zeros(logits.shape[1], jnp.float32).at[best.reshape(-1)].add(1.0)
