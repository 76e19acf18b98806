"""``compare``: the author's program and the rewritten one, in turns, on the same arguments, on this machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from hire_compiler.calling.transformed import HireFunction
from hire_compiler.comparison.comparison import AS_WRITTEN, REWRITTEN, Comparison, Timing
from hire_compiler.comparison.turns import LEAST, MOST, SECONDS
from hire_compiler.errors import CaptureError, ConfigError, EstimateError
from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.measuring.bench import Bench, Call
from hire_compiler.measuring.estimate import estimate_both
from hire_compiler.reports.findings import split_seconds
from hire_compiler.runtime.target import target_for

DECODE = 64  # calls of a decode, where carry= feeds outputs back and calls= does not say how many

Carry = Callable[[Any, Call], Call]


def compare(
    step: HireFunction,
    *args: Any,
    calls: Iterable[Call] | int | None = None,
    carry: Carry | None = None,
    dense: Callable[..., Any] | None = None,
    rounds: int | None = None,
    tpu: str = "v5e:2x2",
    progress: Progress = no_progress,
    **kwargs: Any,
) -> Comparison:
    """Run the author's program and the rewritten one in turns: how fast each is, and how their results differ.

    Donated arguments are copied for each call, outside of the time that is taken, so all arguments stay usable. From
    then on ``step.report()`` says how fast the step is, too.

    Args:
      step: what :func:`hire_compiler.transform` returned. Where it was made for a TPU and runs elsewhere, both programs
        are *estimated* by the TPU compiler (:func:`hire_compiler.estimate`), and the result says so.
      *args, **kwargs: of one call, as of the function itself.
      calls: an iterable of argument tuples in the place of ``args``: every one is a call. With ``carry``: how many
        calls (64 by default).
      carry: ``carry(results, args)`` gives the arguments of the next call of a decode. Both programs get the author's
        results, so that every call is compared by itself; the timed calls of the rewritten program get its own, and
        :attr:`Comparison.alone` says for how long these were the author's.
      dense: another function of the same arguments that computes the same, the best dense form for instance; timed too.
      rounds: timed calls of each program for each call given. By default one call is timed for about two seconds, and
        each of several once.
      tpu: topology of an estimate.
      progress: called with (what, done, of how many).

    Raises:
      ConfigError: the arguments contradict each other.
      CaptureError: ``carry`` or ``dense`` returned something else than arguments, or than the author's results.
      EstimateError: the step was made for a GPU, which is not here, or for a TPU without ``libtpu`` to estimate it.

    >>> step = hire.transform(jax.jit(decode_step))                                         # doctest: +SKIP
    >>> hire.compare(step, params, token, cache, carry=lambda out, args: (params, *out))    # doctest: +SKIP
    """
    _check(step, args, calls, carry, rounds)
    first, given = _first_call(args, calls)
    if step.platform not in (None, target_for(jax.default_backend()).platform):
        return _estimated(step, first, kwargs, tpu)
    bench = Bench(step, dense, first, kwargs)
    if carry is not None:
        fed, count = "carry", calls if isinstance(calls, int) else DECODE
        _decode(bench, first, carry, count, progress)
    elif calls is None:
        fed = "one call"
        _one_call(bench, first, rounds, progress)
    else:
        fed = "calls"
        _several(bench, given, rounds or 1, progress)
    found = bench.found(fed)
    step.remember_speed(found.speed, *first, **kwargs)
    return found


def _check(step: Any, args: Call, calls: Any, carry: Any, rounds: Any) -> None:
    if not isinstance(step, HireFunction):
        raise ConfigError(f"compare takes what hire.transform returned, not a {type(step).__name__}")
    whole = isinstance(calls, int) and not isinstance(calls, bool)
    if carry is not None and (not callable(carry) or not (calls is None or (whole and calls > 0))):
        raise ConfigError(
            "carry is a function of (results, args) that returns the arguments of the next call; beside it, calls is "
            f"how many calls to make, not {calls!r}"
        )
    if carry is None and (whole or isinstance(calls, (str, dict)) or not (calls is None or hasattr(calls, "__iter__"))):
        raise ConfigError(f"calls is {calls!r}: give argument tuples, one a call, or a number beside carry=…")
    if carry is None and calls is not None and args:
        raise ConfigError("give the arguments of one call, or calls=… with those of several; not both")
    if rounds is not None and (not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1):
        raise ConfigError(f"rounds is {rounds!r}: give a whole number of at least 1")


def _first_call(args: Call, calls: Any) -> tuple[Call, Iterator[Call]]:
    """The first call, and all of them."""
    if calls is None or isinstance(calls, int):
        return args, iter([args])
    given = (call if isinstance(call, tuple) else (call,) for call in calls)
    first = next(given, None)
    if first is None:
        raise ConfigError("calls is empty: give argument tuples, one a call")
    return first, itertools.chain([first], given)


# --------------------------------------------------------------------------- what is run


def _one_call(bench: Bench, args: Call, rounds: int | None, progress: Progress) -> None:
    bench.round(args, timed=False)
    done, least, most, spent = 0, rounds or LEAST, rounds or MOST, 0.0
    while done < least or (done < most and spent < SECONDS):
        bench.round(args, compared=False)
        done += 1
        spent = bench.spent
        progress("timing", done, rounds or max(done, min(most, math.ceil(done * SECONDS / max(spent, 1e-9)))))


def _several(bench: Bench, calls: Iterable[Call], rounds: int, progress: Progress) -> None:
    for done, args in enumerate(calls, start=1):
        bench.warm(args)
        bench.round(args)
        for _ in range(rounds - 1):
            bench.round(args, compared=False)
        progress("comparing", done, 0)


def _decode(bench: Bench, first: Call, carry: Carry, count: int, progress: Progress) -> None:
    """Every call compared on the author's own trajectory; timed, the rewritten program goes its own way."""
    args, own = first, first
    bench.alone = 0
    for done in range(1, count + 1):
        bench.warm(args)
        results = bench.round(args, own)
        own_results = bench.last_timed
        bench.count_alone(results[AS_WRITTEN], own_results, done)
        args, own = _next(carry, results[AS_WRITTEN], args), _next(carry, own_results, own)
        progress("decoding", done, count)


def _next(carry: Carry, results: Any, args: Call) -> Call:
    following = carry(results, args)
    if not isinstance(following, tuple) or len(following) != len(args):
        said = f"{len(following)} values" if isinstance(following, tuple) else f"a {type(following).__name__}"
        raise CaptureError(
            f"carry returned {said}: it has to return the arguments of the next call, a tuple of {len(args)}"
        )
    return following


def _estimated(step: HireFunction, args: Call, kwargs: dict[str, Any], tpu: str) -> Comparison:
    if step.platform != "tpu":
        raise EstimateError(
            f"the step was made for platform {step.platform!r}, which is not here, and only TPU programs can be "
            "estimated: run compare on such a machine"
        )
    found = estimate_both(step, *args, tpu=tpu, **kwargs)
    report = step.report(*args, **kwargs)
    sides = {AS_WRITTEN: found.dense, REWRITTEN: found.rewritten}
    return Comparison(
        name=getattr(step, "__name__", "the step"),
        machine=found.rewritten.tpu,
        estimated=f"the TPU compiler ({found.rewritten.compiler})",
        timings=tuple(Timing(program=name, seconds=(side.seconds,)) for name, side in sides.items()),
        bytes_of="HBM traffic",
        dense_bytes=found.dense.hbm_bytes,
        read_bytes=found.rewritten.hbm_bytes,
        added_bytes=sum(d.added_bytes for d in report.rewritten),
        seconds=split_seconds(report.seconds),
    )
