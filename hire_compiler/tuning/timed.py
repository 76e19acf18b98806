"""Time settings of a head on its real shapes: the head alone, as the program reads it, everything in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.api import transform
from hire_compiler.calling.transformed import HireFunction
from hire_compiler.comparison.turns import MOST, Run, Turn, Turns
from hire_compiler.config.rules import Config
from hire_compiler.learned.calibration import Calibration, Moment
from hire_compiler.tuning.settings import DOMINATED
from hire_compiler.tuning.tuned import Tried
from hire_compiler.tuning.tuned_sites import Head

INPUTS = 32  # different inputs that are run in turn, so that proofs hold as often as they do
SECONDS = 0.6  # of timing, for each setting
CLOSE, RUN_OFF = 1.25, 3  # what takes no more times as long as the fastest is timed again, so many times as long
DENSE = "dense"


def time_settings(
    head: Head,
    weight: jax.Array,
    inputs: np.ndarray,
    moment: Moment | None,
    settings: Sequence[Tried],
    told: Callable[[str, int, int], None],
    memory: int | None = None,
) -> list[Tried]:
    """The settings with the milliseconds, bytes and reasons of each; ``dense`` has no rule.

    Args:
      weight: of the head, ``[n, d]``.
      inputs: float32 ``[N, d]``, of which a call takes as many as the site does.
      memory: bytes that may be added: what adds more says nothing about what reads more.
    """
    size = head.site.batch
    inputs = inputs[np.arange(max(len(inputs), size)) % len(inputs)]  # a call takes so many rows, were there fewer
    dtype = jnp.dtype(head.match.dot.x.dtype)
    calls = [
        jnp.asarray(inputs[i : i + size], dtype) for i in range(0, min(len(inputs), INPUTS * size) - size + 1, size)
    ]
    stored = weight.T if head.facts.by_columns else weight
    planned = [_planned(head, tried, stored, calls[0], moment) for tried in settings]
    fitting = [t for _, t in planned if not (t.lossless or t.why) and (memory is None or t.added_bytes <= memory)]
    least = min((tried.read_bytes for tried in fitting), default=0)
    runs: dict[str, Callable[[jax.Array], Any]] = {}
    for done, (step, tried) in enumerate(planned):
        told(f"preparing {tried.name}", done, len(settings))
        slow = not tried.lossless and 0 < DOMINATED * least < tried.read_bytes
        if slow and not tried.why:
            why = f"not timed: it reads {tried.read_bytes / least:.1f} times as much as another"
            planned[done] = step, replace(tried, why=why)
        elif not tried.why:
            runs[tried.name] = _prepared(step, stored, calls[0])
    seconds = with_run_off(runs, calls, told)
    return [replace(t, ms=median(seconds[t.name]) * 1e3) if t.name in seconds else t for _, t in planned]


def with_run_off(
    runs: dict[str, Callable[[Any], Any]], calls: Sequence[Any], told: Callable[[str, int, int], None]
) -> dict[str, list[float]]:
    """Seconds of every program; those close to the fastest run on, until a busy machine can tell them apart, too."""
    seconds = in_turns(runs, calls, told)
    least = min(map(median, seconds.values()))
    close = {name: run for name, run in runs.items() if median(seconds[name]) <= CLOSE * least}
    return seconds | (in_turns(close, calls, told, budget=RUN_OFF * SECONDS) if len(close) > 1 else {})


def in_turns(
    runs: dict[str, Callable[[Any], Any]],
    calls: Sequence[Any],
    told: Callable[[str, int, int], None],
    budget: float | None = None,
) -> dict[str, list[float]]:
    """Seconds of every program, each run on one call's arguments after the other; ``budget`` seconds of each."""
    budget = SECONDS if budget is None else budget
    turns, sources = Turns(), {name: cycle(calls) for name in runs}

    def ready(name: str) -> Run:
        x = next(sources[name])
        return lambda: runs[name](x)

    programs = {name: Turn(lambda name=name: ready(name)) for name in runs}  # type: ignore[misc]
    turns.round(programs, timed=False)  # compiles
    done, spent = 0, 0.0
    while done < 5 or (done < MOST and spent < budget * len(runs)):
        turns.round(programs)
        done, spent = done + 1, sum(map(sum, turns.seconds.values()))
        told("timing", min(done, MOST), MOST)
    return turns.seconds


def _planned(head: Head, tried: Tried, stored: jax.Array, x: jax.Array, moment: Moment | None) -> tuple[Any, Tried]:
    """The head alone as a setting asks for it, and what is known of its bytes."""
    alone = jax.jit(_alone(head))
    if tried.rule is None:
        return alone, replace(tried, read_bytes=stored.nbytes)
    learned = Calibration(moments={} if moment is None else {f"w[{head.site.d}]": moment})
    step = transform(alone, Config(rules=(replace(tried.rule, path=""),), exact=False), calibration=learned)
    (decision,) = step.report(stored, x).decisions or (None,)
    if decision is None or decision.action != "rewritten":
        return step, replace(tried, why=f"left dense: {decision.reason if decision else 'alone it is no site'}")
    return step, replace(tried, read_bytes=decision.sparse_bytes, added_bytes=decision.added_bytes)


def _prepared(step: Any, stored: jax.Array, x: jax.Array) -> Callable[[jax.Array], Any]:
    """A setting ready to run on rows of input."""
    if not isinstance(step, HireFunction):
        return lambda x: step(stored, x)
    prepared = step.prepare(stored, x)
    outer = jax.jit(lambda w, x, q: step(w, x, prepared=q))
    return lambda x: outer(stored, x, prepared)


def _alone(head: Head) -> Callable[[jax.Array, jax.Array], Any]:
    """The head by itself, read as the program reads it: the winner, the best few, or all."""
    top, columns, winners = head.facts.top_k, head.facts.by_columns, head.facts.winners_only

    def alone(w: jax.Array, x: jax.Array) -> Any:
        z = x @ w if columns else x @ w.T
        if not winners:
            return jax.nn.softmax(z, axis=-1)
        return jnp.argmax(z, axis=-1) if top == 1 else jax.lax.top_k(z, top)

    return alone
