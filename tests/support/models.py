"""Small models that several test files transform, and the shortest ways to transform them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from tests.support.drawn import drawn

D, VOCABULARY, WIDTH = 16, 512, 64

HEAD = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64)
FFN = hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0)
CONFIG = hire.Config(rules=(HEAD, FFN))


def array(rng: np.random.Generator, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return drawn(rng.normal(size=shape), dtype)


def weights(rng: np.random.Generator, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Parameters of :func:`decode`."""
    mlp = {"up": array(rng, D, WIDTH) / 4, "down": array(rng, WIDTH, D) / 8}
    return {"embed": array(rng, vocabulary, D), "mlp": mlp}


def decode(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """A step with one feed-forward block and one tied head: the next token of every row."""
    x = params["embed"][tokens]
    h = x + jax.nn.relu(x @ params["mlp"]["up"]) @ params["mlp"]["down"]
    return jnp.argmax(h @ params["embed"].T, axis=-1)


def logits(params: dict[str, Any], tokens: jax.Array) -> np.ndarray:
    """What :func:`decode` takes the argmax of, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = p["embed"][np.asarray(tokens)]
    return (x + np.maximum(x @ p["mlp"]["up"], 0) @ p["mlp"]["down"]) @ p["embed"].T


def tokens(rng: np.random.Generator, batch: int = 2, vocabulary: int = VOCABULARY) -> jax.Array:
    return jnp.asarray(rng.integers(0, vocabulary, batch), jnp.int32)


def head(x: jax.Array, w: jax.Array) -> jax.Array:
    """A head and nothing else: ``[b, d]`` and ``[vocabulary, d]`` to indices."""
    return jnp.argmax(x @ w.T, axis=-1)


def ffn(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """A feed-forward block and nothing else."""
    return jax.nn.relu(x @ up) @ down


def rewritten(step: hire.HireFunction) -> list[str]:
    """Ids of the sites that the last call ran rewritten."""
    return [decision.site for decision in step.report().rewritten]


def said(report: hire.Report) -> str:
    """Everything that a report says, without its line breaks."""
    return " ".join(report.text(full=True).split())
