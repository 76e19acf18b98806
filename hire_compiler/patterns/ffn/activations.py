"""The activations by definition, and the points on which a region is compared with them (``recognise.py``).

To add an activation, add one line to the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hire_compiler.graph.expression import Expression, special

Array = np.ndarray
Definition = Callable[[Array], Array]

_sigmoid, _normal_cdf = special("expit"), special("ndtr")

ACTIVATIONS: dict[str, Definition] = {
    "relu": lambda z: np.maximum(z, 0),
    "relu2": lambda z: np.maximum(z, 0) ** 2,
    "relu3": lambda z: np.maximum(z, 0) ** 3,
    "relu6": lambda z: np.clip(z, 0, 6),
    "silu": lambda z: z * _sigmoid(z),
    "gelu": lambda z: z * _normal_cdf(z),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "gelu_sigmoid": lambda z: z * _sigmoid(1.702 * z),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "selu": lambda z: 1.0507 * np.where(z > 0, z, 1.67326 * np.expm1(np.minimum(z, 0))),
    "mish": lambda z: z * np.tanh(np.logaddexp(z, 0)),
    "hard_silu": lambda z: z * np.clip(z + 3, 0, 6) / 6,
    "identity": lambda z: z,
}

CUSTOM = "custom"  # elementwise, zero at zero, and none of the table

TOLERANCE = 2e-3  # constants rounded to bfloat16 move a GELU by 3e-4; its neighbours are 2e-2 away


@dataclass(frozen=True)
class Activation:
    """A recognised region ``act(gate + bias) [· (up + bias)]``.

    Attributes:
      name: key of :data:`ACTIVATIONS`, or :data:`CUSTOM`.
      gate: which stream the activation is applied to.
      gate_bias: which parameter is added to that stream, or None.
      selection: an explicit choice of neurons that the author makes: ``top_k``, ``group_topk``,
        ``statistical_top_k``, or ''.
      share: what such a choice keeps of normally distributed neurons.
    """

    name: str
    gate: int
    gate_bias: int | None
    selection: str = ""
    share: float = 1.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Sample points of every stream and parameter, and what the region makes of them."""

    streams: list[Array]
    parameters: list[Array]
    result: Array

    def shifted(self, owners: tuple[int, ...]) -> list[Array]:
        """The streams with every parameter added to the stream that owns it."""
        return [
            z + sum(b for b, owner in zip(self.parameters, owners, strict=True) if owner == s)
            for s, z in enumerate(self.streams)
        ]


def sample(expression: Expression, streams: int, count: int, *, grid: bool = True) -> Samples:
    """Evaluate a region on ``count`` random points (an even grid to ±8 among them)."""
    rng = np.random.default_rng(0)
    even = np.linspace(-8, 8, count * 5 // 8 if grid else 0)
    points = [np.concatenate([even, rng.normal(size=count - len(even))]) for _ in range(streams)]
    points[-1] = rng.permutation(points[-1])
    vectors = [rng.normal(size=count) for _ in range(expression.inputs - streams)]
    return Samples(points, vectors, np.broadcast_to(expression.evaluate([*points, *vectors]), (count,)))
