"""Feed-forward blocks whose activation has exact zeros, and weights for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.drawn import drawn

D, WIDTH = 32, 256
Block = Callable[..., jax.Array]
Params = dict[str, jax.Array]


def plain(w: Params, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]


def squared(w: Params, x: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.relu(x @ w["up"] + w["bias"])) @ w["down"]


def gated(w: Params, x: jax.Array) -> jax.Array:
    return (jax.nn.relu(x @ w["gate"] + w["bias"]) * (x @ w["up"])) @ w["down"]


def scanned(w: Params, x: jax.Array) -> jax.Array:
    """Layers of :func:`gated`, their weights stacked as :func:`weights_of` stacks them."""
    return jax.lax.scan(lambda x, w: (x + gated(w, x), None), x, w)[0]


BLOCKS = [plain, squared, gated, scanned]


def weights(rng: np.random.Generator, dtype: Any = jnp.float32, bias: float = 0.0) -> Params:
    """Weights of one layer; the lower the bias, the fewer neurons are active."""
    shapes = {"gate": (D, WIDTH), "up": (D, WIDTH), "down": (WIDTH, D)}
    w = {name: drawn(rng.normal(size=s) / np.sqrt(s[0]), dtype) for name, s in shapes.items()}
    return w | {"bias": jnp.full(WIDTH, bias, dtype)}


def weights_of(block: Block, rng: np.random.Generator, dtype: Any = jnp.float32, bias: float = 0.0) -> Params:
    """Weights of a block: of one layer, or of three for :func:`scanned`."""
    w = weights(rng, dtype, bias)
    return jax.tree.map(lambda a: jnp.stack([a, a[::-1], a / 2]), w) if block is scanned else w
