"""``tune``: for every site the fastest setting that meets a budget, measured on held-out rows and on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable as Function
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from hire_compiler.callable import Callable
from hire_compiler.errors import ConfigError
from hire_compiler.offline.progress import Progress, progress
from hire_compiler.passes.tuned_sites import find_sites
from hire_compiler.program import capture
from hire_compiler.runtime.weights import materialize
from hire_compiler.tuning.batches import calibrated, captured, rows_read
from hire_compiler.tuning.search import Interrupted, Search
from hire_compiler.tuning.timed_blocks import alike
from hire_compiler.tuning.tuned import Tuned


def tune(
    function: Function[..., Any],
    *args: Any,
    forward: Function[..., Any],
    batches: Iterable[Any],
    recall: float,
    memory: int | None = None,
    progress: Progress | None = None,
    **kwargs: Any,
) -> Tuned:
    """Choose, for every site of a decode step, the fastest setting whose recall is enough.

    The first half of the batches calibrates; the recall is measured on the second half, of what the program reads: of a
    head the winner, the best k, or, where all logits are read, the best 64 of the logits as the product gives them; of
    a block its active neurons. Rank, kind of predictor and number of candidates are chosen together. Every setting that
    meets the recall is timed here on the site's own weights, in turns with the others, the dense site and the exact
    one; where no approximation saves 3 % over the exact one, that is chosen. Blocks of which no neuron is exactly zero
    read all of them, and keep the exact default.

    Args:
      function: the decode step, as for :func:`hire_compiler.transform`.
      *args, **kwargs: of one call of it.
      forward: runs over text with the same weights under the same argument names: a batched forward pass.
      batches: arguments of one call of ``forward`` each, a tuple or a single argument.
      recall: share of what the program reads that has to be among the candidates; 0.999 is a good start.
      memory: bytes that all sites together may add; None for any number.
      progress: called with (what, done, of how many); by default a bar where a terminal looks.

    Returns:
      What was chosen, and everything that was tried. An interrupt ends the search early, with what is known so far.

    Raises:
      ConfigError: the budget is none, there are too few rows to measure it, or nothing can be tuned.
      CaptureError: ``forward`` has no head with a weight that the step's head reads.

    >>> tuned = hire.tune(step, *args, forward=forward, batches=batches, recall=0.999)   # doctest: +SKIP
    >>> fast = hire.transform(step, tuned.config, calibration=tuned.calibration)          # doctest: +SKIP
    """
    _check(recall, memory)
    given = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if len(given) < 2:
        raise ConfigError(
            f"tune got {len(given)} batches: half of them calibrate and half are held out, so give two or more"
        )
    with _told(progress) as told:
        wrapped = Callable(function)
        leaves, tree = wrapped.flatten(args, kwargs)
        program = capture(wrapped, leaves, tree)
        heads, blocks = ((), ()) if program.refusal else find_sites(program, jax.default_backend())
        if not (heads or blocks):
            why = program.refusal or "hire.inspect(…) says what was found; heads stored in few bits are not tuned yet"
            raise ConfigError(f"{program.name} has no site to tune: {why}")
        values, calls = [*program.constants, *leaves], captured(forward, given)
        half = len(calls) // 2
        calibration = calibrated(calls[:half], None if blocks else "head", told)
        inputs = rows_read(calls[half:], told)
        search = Search(recall, memory, calibration, told)
        with contextlib.suppress(Interrupted):
            for head in heads:
                search.head(head, materialize(head.match.dot.weight, values), inputs)
            for some in alike(blocks):
                search.blocks(some, inputs, values)
    return search.tuned()


def _check(recall: Any, memory: Any) -> None:
    number = isinstance(recall, (int, float)) and not isinstance(recall, bool)
    if not number or not 0 < recall < 1:
        raise ConfigError(
            f"recall is {recall!r}: give a share between 0 and 1, such as 0.999; without rules every answer is exact"
        )
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 0):
        raise ConfigError(f"memory is {memory!r}: give a number of bytes, or None for any")


@contextlib.contextmanager
def _told(given: Progress | None) -> Iterator[Progress]:
    if given is not None:
        yield given
        return
    with progress() as told:
        yield told
