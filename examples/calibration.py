"""Calibrate the head of an example model, or tune it, on the calibration prose.

The decode step sees one position a call; a forward pass over whole passages sees hundreds. It takes the same
``params`` under the same name, and that is what ties what it learns to the decode step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import hire_compiler as hire
from examples.models import Model
from examples.models.text import calibration_text

Forward = Callable[[Any, jax.Array, Any], jax.Array]


def all_winners(model: Model) -> Forward:
    """A forward pass ``(params, tokens [B, T], cache)`` to the token that follows each: int32 ``[B, T]``."""

    def forward(params: Any, tokens: jax.Array, cache: Any) -> jax.Array:
        x, _ = model.hidden_states(params, tokens, cache)
        return jnp.argmax(model.logits(params, x), axis=-1)

    return forward


def all_logits(model: Model) -> Forward:
    """A forward pass ``(params, tokens [B, T], cache)`` to logits ``[B, T, V]``."""

    def forward(params: Any, tokens: jax.Array, cache: Any) -> jax.Array:
        x, _ = model.hidden_states(params, tokens, cache)
        return model.logits(params, x)

    return forward


def passages(model: Model, length: int = 256, *, begun: bool = False) -> list[tuple[Any, ...]]:
    """Arguments of a forward pass over each passage of the calibration text.

    Args:
        begun: every passage begins with the token that begins a text, not the first alone. A model that has always seen
            it predicts badly without: measure a loss with it.
    """
    cuts = windows(model.tokenizer.encode(calibration_text(), add_bos=True), length, begun=begun)
    return [(model.params, jnp.asarray([cut], jnp.int32), model.init_cache(1, length)) for cut in cuts]


def windows(ids: list[int], length: int, *, begun: bool) -> list[list[int]]:
    """A text cut into parts of one length, as :func:`passages` says; what does not fill one is left out."""
    start, own = (ids[:1], length - 1) if begun else ([], length)
    ids = ids[len(start) :]
    return [[*start, *ids[at : at + own]] for at in range(0, len(ids) - own + 1, own)]


def calibrate_head(model: Model, length: int = 256) -> hire.Calibration:
    """Second moment of the head's input over the calibration text."""
    return hire.calibrate(all_winners(model), passages(model, length), kind="head")
