"""Recognise an activation by what it computes, not by how it is spelled.

There are at least five spellings of GELU in real graphs and three of ReLU². The region between the dots is
evaluated on sample points in float64 and compared with the definitions below; the nearest within tolerance
names it. To add an activation, add one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from hire_compiler.expression import Expression, special
from hire_compiler.patterns.match import NoMatch

_sigmoid, _normal_cdf = special("expit"), special("ndtr")

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda z: np.maximum(z, 0),
    "relu2": lambda z: np.maximum(z, 0) ** 2,
    "relu6": lambda z: np.clip(z, 0, 6),
    "silu": lambda z: z * _sigmoid(z),
    "gelu": lambda z: z * _normal_cdf(z),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "gelu_sigmoid": lambda z: z * _sigmoid(1.702 * z),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "identity": lambda z: z,
}

EXACT_ZEROS = frozenset({"relu", "relu2", "relu6"})  # z ≤ 0 gives exactly zero

_TOLERANCE = 2e-3  # constants rounded to bfloat16 move a GELU by 3e-4; its neighbours are 2e-2 away


@dataclass(frozen=True)
class Activation:
    """A recognised region ``act(gate + bias) [· (up + bias)]``.

    Attributes:
      name: key of :data:`ACTIVATIONS`.
      gate: which stream the activation is applied to.
      gate_bias: which parameter is added to that stream, or None.
    """

    name: str
    gate: int
    gate_bias: int | None


@lru_cache(maxsize=1024)
def recognise(expression: Expression, streams: int) -> Activation:
    """Name the activation of a region with one stream, or two (gated).

    Raises:
      NoMatch: no activation of the table computes it, or it has more than two streams.
    """
    if streams > 2:
        raise NoMatch(f"{streams} matrix products are combined before the next one, expected 1 or 2", depth=3)
    parameters = expression.inputs - streams
    if parameters > 2:
        raise NoMatch(f"{parameters} parameter vectors enter the activation, expected at most 2", depth=3)
    rng = np.random.default_rng(0)
    samples = [np.concatenate([np.linspace(-5, 5, 101), rng.normal(size=59)]) for _ in range(streams)]
    samples[-1] = rng.permutation(samples[-1])
    biases = [rng.normal(size=160) for _ in range(parameters)]
    got = expression.evaluate([*samples, *biases])
    best: Activation | None = None
    error = np.inf
    for gate, owners in product(range(streams), product(range(streams), repeat=parameters)):
        shifted = [z + sum(b for b, owner in zip(biases, owners, strict=True) if owner == s)
                   for s, z in enumerate(samples)]  # fmt: skip
        others = np.prod([z for s, z in enumerate(shifted) if s != gate], axis=0) if streams > 1 else 1.0
        for name, function in ACTIVATIONS.items():
            scale = max(1.0, float(np.max(np.abs(others))))
            distance = float(np.max(np.abs(got - function(shifted[gate]) * others))) / scale
            if distance < error:
                mine = [p for p, owner in enumerate(owners) if owner == gate]
                best, error = Activation(name, gate, mine[0] if mine else None), distance
    if best is None or not error < _TOLERANCE:
        raise NoMatch(
            f"the activation is none of {', '.join(ACTIVATIONS)} (nearest: {best.name if best else 'none'})", depth=3
        )
    return best
