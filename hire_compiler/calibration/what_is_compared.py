"""What a head compares: on which a recall is counted, so that a bias or a sign in front of the argmax counts too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler.calibration.trials import vector_of
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.proofs.monotone import is_decreasing

Compared = Callable[[jax.Array], jax.Array]


def as_it_is(logits: jax.Array) -> jax.Array:
    """The logits themselves."""
    return logits


def what_is_compared(match: HeadMatch, values: Sequence[Any]) -> Compared:
    """From logits ``[N, n]`` to what the program compares, where that is the same code in every call.

    Noise, and what a request brings, are left out: then the best logits count, or the least where code turns them
    around. Padding behind the vocabulary never wins.

    Args:
      values: arguments of ``@main``.
    """
    if not match.winners:
        return as_it_is
    winner = match.winners[0]
    code, region = winner.compared.widened, winner.region
    if winner.noise is not None or region.captured:
        return jnp.negative if is_decreasing(code) else as_it_is
    biases = [vector_of(origin.weight, index, values)[0].astype(jnp.float32) for origin, index in region.parameters]

    def compared(logits: jax.Array) -> jax.Array:
        best = code.evaluate([logits[:, : winner.width], *biases], exact=True).astype(jnp.float32)
        padding = logits.shape[1] - winner.width
        return jnp.pad(best, ((0, 0), (0, padding)), constant_values=-jnp.inf)

    return compared
