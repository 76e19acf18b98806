"""Greedy generation: one prefill, then one `greedy_step` a token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from examples.models import Model
from examples.models.transformer import Cache, Params

Step = Callable[[Params, Array, Cache], tuple[Array, Cache]]


@dataclass(frozen=True)
class Generation:
    """What one run produced.

    Attributes:
        tokens: the new ids, without the prompt and without the id that ended the text.
        step_seconds: wall time of each decoding step, from its call to its token on the host.
    """

    tokens: list[int]
    step_seconds: list[float]

    def median_milliseconds(self) -> float:
        """The median time of a decoding step; not a number when there was none."""
        return 1e3 * float(np.median(self.step_seconds)) if self.step_seconds else float("nan")


def jit_step(model: Model) -> Step:
    """The model's decoding step, compiled once for each shape; the cache it is given is donated."""
    step: Step = jax.jit(model.greedy_step, donate_argnums=2)
    return step


def generate(
    model: Model,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    step: Step | None = None,
    cache_length: int = 1024,
) -> Generation:
    """Continue one prompt.

    Args:
        model: the model.
        prompt: token ids, at least one.
        new_tokens: how many to generate at most; generation ends earlier at an end-of-text token.
        step: what to call at each step, by default `jit_step(model)`. Give one to reuse its
            compiled programs over prompts.
        cache_length: static length of the cache; prompt and new tokens must fit.

    Raises:
        ValueError: the prompt is empty, or does not fit the cache together with the new tokens.
    """
    if not prompt:
        raise ValueError("The prompt is empty; give at least one token.")
    if len(prompt) + new_tokens > cache_length:
        raise ValueError(
            f"{len(prompt)} prompt tokens and {new_tokens} new ones do not fit a cache of "
            f"{cache_length}; raise cache_length."
        )
    step = step or jit_step(model)
    cache = model.init_cache(1, cache_length)
    token, cache = step(model.params, jnp.array([prompt], jnp.int32), cache)
    # A decoding step compiles on its first call: that one runs on a cache of its own, not timed.
    np.asarray(step(model.params, token[:, None], model.init_cache(1, cache_length))[0])

    tokens: list[int] = []
    seconds: list[float] = []
    chosen = np.asarray(token)
    while len(tokens) < new_tokens and int(chosen[0]) not in model.tokenizer.stop:
        tokens.append(int(chosen[0]))
        if len(tokens) == new_tokens:
            break
        began = time.perf_counter()
        token, cache = step(model.params, token[:, None], cache)
        chosen = np.asarray(token)  # Waits for the step.
        seconds.append(time.perf_counter() - began)
    return Generation(tokens, seconds)
