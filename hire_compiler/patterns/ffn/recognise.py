"""Recognise an activation by what it computes, not by how it is spelled.

There are at least five spellings of GELU in real graphs and three of ReLU². The region between the dots is
evaluated on sample points in float64 and compared with the definitions of ``activations.py``; the nearest within
tolerance names it. A factor in front (``1.4 · relu``) does not change the name.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from hire_compiler.graph.expression import Expression
from hire_compiler.patterns.ffn.activations import ACTIVATIONS, CUSTOM, TOLERANCE, Activation, Samples, sample
from hire_compiler.patterns.ffn.selection import recognise_selection
from hire_compiler.patterns.operations.match import NoMatch

Array = np.ndarray


@lru_cache(maxsize=1024)
def recognise(expression: Expression, streams: int) -> Activation:
    """Name the activation of a region with one stream, or two (gated).

    Raises:
      NoMatch: it has more streams or parameters than a feed-forward block, or does not vanish, or no selection of
        neurons explains the numbers it draws from whole rows.
    """
    if streams > 2:
        raise NoMatch(f"{streams} matrix products are combined before the next one, expected 1 or 2", depth=3)
    parameters = expression.inputs - streams
    if parameters > 4:
        raise NoMatch(
            f"{parameters} vectors or numbers of parameters enter the activation, expected at most 4", depth=3
        )
    expression = expression.unrounded
    if expression.rowwise:
        return recognise_selection(expression, streams)
    samples = sample(expression, streams, 160)
    best, error = _nearest(samples)
    if error < TOLERANCE:
        return best
    if _is_affine(expression, samples):
        raise NoMatch("nothing nonlinear stands between the two products (a low-rank adapter?)", depth=3)
    vanishing = _vanishing(expression, samples)
    if vanishing is None:
        raise NoMatch(
            f"the activation is none of {', '.join(ACTIVATIONS)} (nearest: {best.name}), and it is not zero at zero, "
            "so no neuron can be left out",
            depth=3,
        )
    return vanishing


def _nearest(samples: Samples) -> tuple[Activation, float]:
    best, error = Activation("identity", 0, None), np.inf
    streams, parameters = len(samples.streams), len(samples.parameters)
    for gate, owners in product(range(streams), product(range(streams), repeat=parameters)):
        shifted = samples.shifted(owners)
        others = np.prod([z for s, z in enumerate(shifted) if s != gate], axis=0) if streams > 1 else 1.0
        mine = [p for p, owner in enumerate(owners) if owner == gate]
        for name, function in ACTIVATIONS.items():
            distance = _distance(samples.result, function(shifted[gate]) * others, float(np.max(np.abs(others))))
            if distance < error:
                best, error = Activation(name, gate, mine[0] if len(mine) == 1 else None), distance
    return best, error


def _distance(got: Array, wanted: Array, scale: float) -> float:
    """The largest difference, after the best constant factor (which has to be positive)."""
    direct = float(np.max(np.abs(got - wanted))) / max(1.0, scale)
    if direct < TOLERANCE or not np.isfinite(got).all():
        return direct
    factor = float(got @ wanted) / max(float(wanted @ wanted), 1e-30)
    if not 1e-6 < factor < 1e6:
        return direct
    scaled = float(np.max(np.abs(got / factor - wanted))) / max(1.0, scale)
    # A factor is one more degree of freedom, so it has to fit better to be believed.
    return scaled if scaled < TOLERANCE / 10 else direct


def _is_affine(expression: Expression, samples: Samples) -> bool:
    """Whether the region is affine in its streams taken together (a low-rank adapter, a plain projection)."""
    step = [np.full_like(z, h) for z, h in zip(samples.streams, (0.37, -0.23), strict=False)]

    def at(times: float) -> Array:
        moved = [z + times * h for z, h in zip(samples.streams, step, strict=True)]
        return np.asarray(expression.evaluate([*moved, *samples.parameters]))

    bend = at(1) - 2 * at(0) + at(-1)
    return bool(np.max(np.abs(bend)) < 1e-6 * max(1.0, float(np.max(np.abs(samples.result)))))


def _vanishing(expression: Expression, samples: Samples) -> Activation | None:
    """A stream at whose zero (biases added) the region is zero, whatever the others are; None if there is none."""
    parameters = len(samples.parameters)
    for gate, owned in product(range(len(samples.streams)), product((False, True), repeat=parameters)):
        bias = sum(b for b, mine in zip(samples.parameters, owned, strict=True) if mine)
        at_zero = [z * 0 - bias if s == gate else z for s, z in enumerate(samples.streams)]
        if np.max(np.abs(expression.evaluate([*at_zero, *samples.parameters]))) < 1e-6:
            return Activation(CUSTOM, gate, owned.index(True) if sum(owned) == 1 else None)
    return None
