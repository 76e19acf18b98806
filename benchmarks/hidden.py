"""Hidden states of a real model on text that calibration never saw: what heads are measured on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from examples.calibration import windows
from examples.models import Model
from examples.models.text import heldout_text


def heldout_states(model: Model, length: int = 512) -> jax.Array:
    """The head's inputs ``[positions, d]`` of the held-out text, in windows of ``length`` tokens."""
    states = jax.jit(model.hidden_states)
    text = heldout_tokens(model, length)[:, None]
    return jnp.concatenate([states(model.params, window, model.init_cache(1, length))[0][0] for window in text])


def heldout_tokens(model: Model, length: int = 512, *, begun: bool = False) -> np.ndarray:
    """The held-out text in windows, ``[windows, length]``; ``begun``: each with the token that begins a text."""
    ids = model.tokenizer.encode(heldout_text(), add_bos=True)
    return np.asarray(windows(ids, length, begun=begun), np.int32)
