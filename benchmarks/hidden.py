"""Hidden states of a real model on text that calibration never saw: what heads are measured on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from examples.models import Model
from examples.models.text import heldout_text


def heldout_states(model: Model, length: int = 512) -> jax.Array:
    """The head's inputs ``[positions, d]`` of the held-out text, in windows of ``length`` tokens."""
    states = jax.jit(model.hidden_states)
    windows = heldout_tokens(model, length).reshape(-1, 1, length)
    return jnp.concatenate([states(model.params, window, model.init_cache(1, length))[0][0] for window in windows])


def heldout_tokens(model: Model, length: int = 512) -> np.ndarray:
    """The tokens ``[positions]`` behind these states; what does not fill a window is left out."""
    ids = model.tokenizer.encode(heldout_text(), add_bos=True)
    return np.asarray(ids[: len(ids) // length * length], np.int32)
