"""The loss of a whole program on held-out text, with some of its blocks made sparse: next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.errors import CaptureError, ConfigError
from hire_compiler.learned.calibration import Calibration
from hire_compiler.tuning.batches import Batch
from hire_compiler.tuning.simulate import Knob, Simulated, Simulation, simulate

ENOUGH = 4096  # tokens: more would only take longer
LEAST = 128
SURE = 2.0  # standard errors that a rise has to stay below its limit


@dataclass(frozen=True)
class Rise:
    """By which share a loss is higher than that of the program as written.

    Attributes:
      mean: over the held-out tokens.
      error: its standard error.
      tokens: how many there were.
    """

    mean: float
    error: float
    tokens: int

    def within(self, limit: float) -> bool:
        """Whether it surely is no more."""
        return self.mean + SURE * self.error <= limit

    def beyond(self, limit: float) -> bool:
        """Whether it surely is more."""
        return self.mean - SURE * self.error > limit

    def why_not(self, limit: float) -> str:
        """Why it is not within a limit."""
        if self.mean > limit:
            return f"the loss would rise by {self.mean:.2%}"
        more = ceil(self.tokens * (SURE * self.error / max(limit - self.mean, 1e-9)) ** 2)
        said = f"the loss would rise by {self.mean:.2%} ± {SURE * self.error:.2%} on {self.tokens} held-out tokens"
        return f"{said}, too few to tell it from {limit:.2%}" + (f": {more} could" if more < 10**7 else "")


class Losses:
    """Runs a forward pass on held-out batches, its blocks set one way or another."""

    def __init__(self, batches: Sequence[Batch], blocks: Mapping[str, Simulated], calibration: Calibration) -> None:
        """Take so many of the batches as are enough.

        Raises:
          ConfigError: there are no logits beside tokens, or too few tokens.
        """
        self._batches, self.tokens = enough_text(batches)
        self._made: dict[int, tuple[Simulation, Any]] = {}
        for batch in self._batches:
            if id(batch.program) not in self._made:
                platform = jax.default_backend()
                made = simulate(batch.program, batch.values, blocks, calibration, platform)
                self._made[id(batch.program)] = made, _losses_of(batch, made)
        found = set(blocks).intersection(*(made.keys for made, _ in self._made.values()))
        if lost := set(blocks) - found:
            raise CaptureError(f"forward has no block that reads {sorted(lost)[0].partition('|')[0]}, as the step has")
        self._dense = self._each({})

    @property
    def dense(self) -> float:
        """The loss of the program as written, in nats a token."""
        return float(self._dense.mean())

    def rise(self, knobs: Mapping[str, Knob], limit: float = float("inf")) -> Rise:
        """What blocks cost that are set like this; the others are as written.

        No more batches are run than it takes to see that it is beyond the limit.
        """
        found: list[np.ndarray] = []
        for losses in self._of_batches(knobs):
            found.append(losses)
            seen = np.concatenate(found)
            more = (seen - self._dense[: len(seen)]) / max(self.dense, 1e-9)
            rise = Rise(float(more.mean()), float(more.std() / len(more) ** 0.5), len(more))
            if len(seen) >= LEAST and rise.beyond(limit):
                break
        return rise

    def _each(self, knobs: Mapping[str, Knob]) -> np.ndarray:
        """The loss of every held-out token: float64 ``[tokens]``."""
        return np.concatenate([*self._of_batches(knobs)])

    def _of_batches(self, knobs: Mapping[str, Knob]) -> Iterator[np.ndarray]:
        """The losses of one batch after the other."""
        for batch in self._batches:
            made, run = self._made[id(batch.program)]
            losses = np.asarray(run(*batch.values, *made.arrays, *made.knobs(knobs)), np.float64).reshape(-1)
            if not np.isfinite(losses).all():
                raise ConfigError(
                    "the loss of forward is NaN or infinite on the held-out batches: there is nothing to weigh"
                )
            yield losses


def enough_text(batches: Sequence[Batch]) -> tuple[list[Batch], int]:
    """So many of held-out batches as are enough to measure a loss, and how many tokens they predict.

    Raises:
      ConfigError: there are no logits beside tokens, or too few tokens.
    """
    taken: list[Batch] = []
    tokens = 0
    for batch in batches:
        shape = batch.program.arguments[_places(batch)[1]].shape
        taken.append(batch)
        tokens += prod(shape[:-1]) * (shape[-1] - 1)
        if tokens >= ENOUGH:
            break
    if tokens < LEAST:
        raise ConfigError(
            f"{tokens} held-out tokens are too few to measure a loss: it takes {LEAST}, half of the batches are held "
            f"out, so give {2 * LEAST} tokens or more in all; thousands tell small budgets apart"
        )
    return taken, tokens


def _losses_of(batch: Batch, made: Simulation) -> Any:
    logits, tokens = _places(batch)
    out_avals = batch.program.out_avals

    @jax.jit
    def run(*values: Any) -> jax.Array:
        z = _mlir.run_module(made.module, out_avals, values)[logits].astype(jnp.float32)
        following = jnp.roll(values[tokens], -1, axis=-1).astype(jnp.int32)  # what follows the last is not known
        scores = jnp.take_along_axis(z, following[..., None], axis=-1)[..., 0]
        return (jax.nn.logsumexp(z, axis=-1) - scores)[..., :-1]  # no array of all probabilities is made

    return run


def _places(batch: Batch) -> tuple[int, int]:
    """Which result holds the logits of every token of a text, and which argument the text.

    Raises:
      ConfigError: none does, or several could.
    """
    program = batch.program
    tokens = [i for i, argument in enumerate(program.arguments) if _is_text(argument, batch.values[i])]
    pairs = [
        (j, i)
        for j, out in enumerate(program.out_avals)
        for i in tokens
        if jnp.issubdtype(out.dtype, jnp.floating)
        and tuple(out.shape[:-1]) == tuple(program.arguments[i].shape)
        and out.shape[-1] > int(np.max(np.asarray(batch.values[i])))
    ]
    widest = max((program.out_avals[j].shape[-1] for j, _ in pairs), default=0)
    pairs = [(j, i) for j, i in pairs if program.out_avals[j].shape[-1] == widest]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        names = ", ".join(sorted({program.arguments[i].name for _, i in pairs}))
        raise ConfigError(f"{program.name} has several arguments that could be the text whose loss counts ({names})")
    raise ConfigError(
        f"{program.name} returns no logits for a text: a loss budget needs a forward pass from whole numbers [batch, "
        f"length] to logits [batch, length, vocabulary], and this one returns {_types(program)}"
    )


def _is_text(argument: Any, value: Any) -> bool:
    """Whether an argument could hold tokens: no positions, no mask."""
    whole = jnp.issubdtype(jnp.dtype(argument.dtype), jnp.integer)
    if not whole or not argument.shape or argument.shape[-1] < 2:
        return False
    steps = np.diff(np.asarray(value), axis=-1)
    return not ((steps == 1).all() or (steps == 0).all())


def _types(program: Program) -> str:
    return ", ".join(f"{aval.dtype}{list(aval.shape)}" for aval in program.out_avals[:3]) or "nothing"
