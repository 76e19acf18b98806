"""The small decode step that the soak runs: two stacked blocks and a tied head, rewritten by their defaults' rules."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire

D, WIDTH, VOCABULARY, BATCH = 64, 512, 4096, 2
CONFIG = hire.Config(
    rules=(
        hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify="strict"),
        hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.25),
    )
)


def step(params: dict[str, jax.Array], token: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One token: embed, two blocks, greedy head."""
    h = x + params["embed"][token]

    def layer(h: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        return h + jax.nn.relu(h @ w["up"] - 1.0) @ w["down"], None

    h, _ = jax.lax.scan(layer, h, {"up": params["up"], "down": params["down"]})
    return jnp.argmax(h @ params["embed"].T, axis=-1), h


def parameters(seed: int) -> dict[str, jax.Array]:
    """Weights, about 1.5 MB."""
    rng = np.random.default_rng(seed)
    shapes = {"embed": (VOCABULARY, D), "up": (2, D, WIDTH), "down": (2, WIDTH, D)}
    return {k: jnp.asarray(rng.standard_normal(s, np.float32) * s[-2] ** -0.5) for k, s in shapes.items()}


def arguments(seed: int) -> tuple[jax.Array, jax.Array]:
    """A token and a state."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, VOCABULARY, BATCH)), jnp.asarray(rng.standard_normal((BATCH, D), np.float32))


def same(one: Any, other: Any) -> bool:
    """Whether two results of the step are the same tokens and nearly the same states."""
    close = np.allclose(one[1], other[1], rtol=1e-4, atol=1e-5)
    return bool(np.array_equal(one[0], other[0])) and close


def resident_mb() -> float:
    """Memory that this process holds, in megabytes (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
