"""Whole programs at a small width equal their own graph with everything masked out that was not selected.

``tests/zoo`` asks the same of models nobody here wrote; these run without them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.masked import largest_difference, masked
from tests.support.models import array

D, WIDTH, VOCABULARY, LAYERS = 16, 96, 640, 3
RULES = {"predictor": hire.Quantized(), "density": 0.25, "max_batch": 64}
CONFIG = hire.Config(rules=(hire.Rule(kind="ffn", group=4, **RULES), hire.Rule(kind="head", tail="dropped", **RULES)))


def parameters(rng: np.random.Generator) -> dict[str, Any]:
    fused = array(rng, LAYERS, D, 2, WIDTH) / 4  # gate and up in one weight, the two side by side
    return {
        "embed": array(rng, VOCABULARY, D),
        "fused": fused,
        "down": array(rng, WIDTH, LAYERS, D) / 8,  # stacked along the second axis
        "bias": array(rng, LAYERS, WIDTH),
        "head_bias": array(rng, VOCABULARY),
    }


def hidden(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """Gated blocks under a scan, the weights in unusual layouts."""

    def layer(x: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        fused, down, bias = weights
        products = jnp.einsum("bd,dgf->bgf", x / jnp.linalg.norm(x, axis=-1, keepdims=True), fused)
        h = jax.nn.silu(products[:, 0] + bias) * products[:, 1]
        return x + jnp.einsum("bf,fd->bd", h, down), None

    stacks = (params["fused"], params["down"].swapaxes(0, 1), params["bias"])
    return jax.lax.scan(layer, params["embed"][tokens], stacks)[0]


def winners(params: dict[str, Any], tokens: jax.Array) -> Any:
    logits = 30 * jnp.tanh((hidden(params, tokens) @ params["embed"].T + params["head_bias"]) / 30)
    return jax.lax.top_k(logits, 5), jnp.argmax(logits, -1)


def distribution(params: dict[str, Any], tokens: jax.Array) -> Any:
    return jax.nn.softmax((params["embed"] @ hidden(params, tokens).T).T + params["head_bias"])


def generate(params: dict[str, Any], tokens: jax.Array) -> Any:
    """Layers inside a loop over tokens; the input of each step is the answer of the last."""

    def body(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tokens, seen = state
        chosen = jnp.argmax(hidden(params, tokens) @ params["embed"].T + params["head_bias"], -1).astype(jnp.int32)
        return (chosen * 7 + 3) % VOCABULARY, jnp.roll(seen, 1, axis=1).at[:, 0].set(chosen)

    return jax.lax.fori_loop(0, 6, body, (tokens, jnp.zeros((len(tokens), 6), jnp.int32)))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("program", [winners, distribution, generate])
@pytest.mark.parametrize("batch", [1, 3])
def test_same_selection_same_answer(program: Any, batch: int, rng: np.random.Generator) -> None:
    params = parameters(rng)
    tokens = jnp.asarray(rng.integers(0, VOCABULARY, batch), jnp.int32)
    step = hire.transform(program, CONFIG)
    got = step(params, tokens)
    assert len(step.report().rewritten) == len(step.report().sites) == 2
    assert largest_difference(got, masked(program, CONFIG, params, tokens)) < 1e-5
    if program is distribution:
        assert largest_difference(got, program(params, tokens)) > 1e-3  # something is left out
