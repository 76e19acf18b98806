"""How well a model predicts a text: the mean negative log-likelihood of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from examples.models import Model
from examples.models.transformer import Params

Score = Callable[[Array, Array], Array]

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
    losses = jax.jit(partial(head_losses, model))
    found = token_losses(model, ids, lambda x, targets: losses(model.params, x, targets), length)
    return float(found.mean()), len(found)


def token_losses(
    model: Model, ids: list[int], score: Score, length: int = 1024, block: int = POSITIONS_PER_BLOCK
) -> np.ndarray:
    """The negative log-likelihood of every token, by a head of one's choice.

    Args:
        model: the model to judge.
        ids: the text's tokens, without the beginning-of-text id.
        score: from final hidden states `[block, d]` and targets `[block]` to losses `[block]`.
        length: the longest window; every window starts anew, with nothing before it.
        block: positions scored at a time.
    """
    forward = jax.jit(model.hidden_states)
    found = []
    for window in chunks(model, ids, length):
        # Padded at the end, where no scored position can see it: one compiled program for all.
        padded = window + [0] * (length + block - len(window))
        x, _ = forward(model.params, jnp.array([padded[:length]], jnp.int32), model.init_cache(1, length))
        states = jnp.pad(x[0], ((0, block), (0, 0)))
        for start in range(0, len(window) - 1, block):
            targets = jnp.array(padded[start + 1 : start + 1 + block], jnp.int32)
            losses = np.asarray(score(states[start : start + block], targets), np.float64)
            found.append(losses[: len(window) - 1 - start])
    if not found:
        raise ValueError("The text has fewer than two tokens, so there is nothing to predict.")
    return np.concatenate(found)


def head_losses(model: Model, params: Params, x: Array, targets: Array) -> Array:
    """Negative log-likelihoods of `targets` `[N]` after final states `x` `[N, d]`, in nats."""
    scores = jax.nn.log_softmax(model.logits(params, x).astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
