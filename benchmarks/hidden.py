"""Hidden states of a real model on text that calibration never saw: what heads are measured on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from examples.models import Model
from examples.models.text import heldout_text


def heldout_states(model: Model, length: int = 512) -> jax.Array:
    """The head's inputs ``[positions, d]`` of the held-out text, in windows of ``length`` tokens."""
    ids = model.tokenizer.encode(heldout_text(), add_bos=True)
    states = jax.jit(model.hidden_states)
    found = []
    for start in range(0, len(ids) - length + 1, length):
        tokens = jnp.asarray([ids[start : start + length]], jnp.int32)
        x, _ = states(model.params, tokens, model.init_cache(1, length))
        found.append(x[0])
    return jnp.concatenate(found)
