"""``tune``: for every site the fastest setting that meets a budget, measured on held-out rows and on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.errors import ConfigError
from hire_compiler.files.progress import Progress, progress
from hire_compiler.tuning.batches import captured, check_batches
from hire_compiler.tuning.budget import Budget
from hire_compiler.tuning.program import tune_program
from hire_compiler.tuning.tuned import Tuned


def tune(
    function: Callable[..., Any],
    *args: Any,
    forward: Callable[..., Any],
    batches: Iterable[Any],
    recall: float | None = None,
    loss: float | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    **kwargs: Any,
) -> Tuned:
    """Choose, for every site of a decode step, the fastest setting that meets a budget.

    The first half of the batches calibrates, on the second half is measured. Rank, kind of predictor and number of
    candidates are chosen together. Every setting is timed here on the site's own weights, in turns with the others, the
    dense site and the exact one; where no approximation saves 3 % over the exact one, that is chosen.

    A *recall* is of what the program reads: of a head the winner, the best k, or, where all logits are read, the best
    64 of the logits as the product gives them; of a block its active neurons. Blocks of which no neuron is exactly zero
    read all of them, and keep the exact default.

    A *loss* is the next-token cross-entropy of the whole program, of which chosen blocks leave neurons out as the step
    would. Blocks compete for what it may rise: first comes what saves most milliseconds for it. Heads get the fastest
    setting that changes no token.

    Args:
      function: the decode step, as for :func:`hire_compiler.transform`.
      *args, **kwargs: of one call of it.
      forward: runs over text with the same weights under the same argument names: a batched forward pass.
      batches: arguments of one call of ``forward`` each, a tuple or a single argument.
      recall: share of what the program reads that has to be among the candidates; 0.999 is a good start.
      loss: by which share the loss may rise; 0.005 is half a percent. ``forward`` then takes tokens ``[batch, length]``
        and returns logits ``[batch, length, vocabulary]``.
      memory: bytes that all sites together may add; None for any number.
      progress: called with (what, done, of how many); by default a bar where a terminal looks.

    Returns:
      What was chosen, and everything that was tried. An interrupt ends the search early, with what is known so far.

    Raises:
      ConfigError: the budget is none, there are too few rows to measure it, nothing can be tuned, or ``forward``
        returns no logits where a loss is asked for.
      CaptureError: ``forward`` does not take a batch, or does not read a weight that a site of the step reads.
      WeightError: what a site reads of a batch is NaN or Inf.

    >>> tuned = hire.tune(step, *args, forward=forward, batches=batches, recall=0.999)   # doctest: +SKIP
    >>> fast = hire.transform(step, tuned.config, calibration=tuned.calibration)          # doctest: +SKIP
    """
    budget = Budget(recall, loss, memory)
    if not isinstance(batches, Iterable):
        raise ConfigError(f"batches is {batches!r}: give the arguments of one call of forward, a tuple for each batch")
    given = list(batches)
    check_batches(len(given))
    with _told(progress) as told:
        wrapped = UserFunction(function)
        leaves, tree = wrapped.flatten(args, kwargs)
        program = capture(wrapped, leaves, tree)
        return tune_program(program, [*program.constants, *leaves], lambda: captured(forward, given), budget, told)


@contextlib.contextmanager
def _told(given: Progress | None) -> Iterator[Progress]:
    if given is not None:
        yield given
        return
    with progress() as told:
        yield told
