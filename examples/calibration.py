"""Calibrate the head of an example model on the calibration prose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import hire_compiler as hire
from examples.models import Model
from examples.models.text import calibration_text


def calibrate_head(model: Model, length: int = 256) -> hire.Calibration:
    """Second moment of the head's input over the calibration text.

    The decode step sees one position a call; a forward pass over whole passages sees hundreds. It takes the same
    ``params`` under the same name, and that is what ties what it learns to the decode step.
    """

    def all_logits(params: Any, tokens: jax.Array, cache: Any) -> jax.Array:
        x, _ = model.hidden_states(params, tokens, cache)
        return jnp.argmax(model.logits(params, x), axis=-1)

    def batches() -> Iterator[tuple[Any, ...]]:
        ids = model.tokenizer.encode(calibration_text(), add_bos=True)
        for start in range(0, len(ids) - length + 1, length):
            tokens = jnp.asarray([ids[start : start + length]], jnp.int32)
            yield model.params, tokens, model.init_cache(1, length)

    return hire.calibrate(all_logits, batches(), kind="head")
