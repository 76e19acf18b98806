"""How well a model predicts a text: the mean negative log-likelihood of its tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from examples.models import Model
from examples.models.transformer import Params

# Positions scored at a time: the float32 logits of 128 positions over 262144 tokens are 134 MB.
POSITIONS_PER_BLOCK = 128


def chunks(model: Model, ids: list[int], length: int) -> list[list[int]]:
    """Cut a text's ids (without the beginning-of-text id) into windows of at most `length`.

    Each window starts with the beginning-of-text id where the model has one: it was trained to
    see it, and predicts twice as badly without. A last window of one token predicts nothing and
    is dropped.
    """
    if length < 3:
        raise ValueError(f"A window needs at least 3 tokens, not {length}.")
    bos = [] if model.tokenizer.bos is None else [model.tokenizer.bos]
    step = length - len(bos)
    windows = [bos + ids[start : start + step] for start in range(0, len(ids), step)]
    return [window for window in windows if len(window) > 1]


def text_loss(model: Model, ids: list[int], length: int = 1024) -> tuple[float, int]:
    """Score a text window by window, each in one whole-sequence forward pass.

    Args:
        model: the model to judge.
        ids: the text's tokens, without the beginning-of-text id.
        length: the longest window; every window starts anew, with nothing before it.

    Returns:
        The mean negative log-likelihood of a token in nats, the logarithm of the perplexity; and
        how many tokens it is the mean of.
    """
    forward = jax.jit(model.hidden_states)
    score = jax.jit(lambda params, x, targets: _losses(model, params, x, targets))
    total, count = 0.0, 0
    for window in chunks(model, ids, length):
        # Padded at the end, where no scored position can see it: one compiled program for all.
        padded = window + [0] * (length - len(window))
        cache = model.init_cache(1, length)
        x, _ = forward(model.params, jnp.array([padded], jnp.int32), cache)
        for start in range(0, len(window) - 1, POSITIONS_PER_BLOCK):
            targets = window[start + 1 : start + 1 + POSITIONS_PER_BLOCK]
            states = x[0, start : start + len(targets)]
            total += float(score(model.params, states, jnp.array(targets, jnp.int32)))
            count += len(targets)
    if count == 0:
        raise ValueError("The text has fewer than two tokens, so there is nothing to predict.")
    return total / count, count


def _losses(model: Model, params: Params, x: Array, targets: Array) -> Array:
    """Sum of the negative log-likelihoods of `targets` `[N]` after states `x` `[N, d]`, in nats."""
    scores = jax.nn.log_softmax(model.logits(params, x).astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(scores, targets[:, None], axis=-1).sum()
