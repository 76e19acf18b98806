"""Batches of text: calls of a forward pass, what calibration learns from some and what sites read in others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration.calibrate import STRONGEST, Learner, but_for, probe_avals
from hire_compiler.calibration.instrument import Instrumented
from hire_compiler.calibration.instrument_program import instrument_program
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import Program, capture
from hire_compiler.errors import CaptureError, ConfigError, HireError, WeightError
from hire_compiler.files.progress import Progress
from hire_compiler.learned.calibration import Calibration
from hire_compiler.tuning.tuned_sites import Block, Head, show_inputs


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of a forward pass.

    Attributes:
      program: what is called; the same object for calls of the same types.
      values: the arguments of its ``@main``.
      origin: a name of the batch, for errors.
    """

    program: Program
    values: list[Any]
    origin: str


def captured(function: Callable[..., Any], batches: Sequence[Any]) -> list[Batch]:
    """Calls of a function, each with a tuple of arguments or a single one.

    Raises:
      CaptureError: the function cannot be rewritten, or does not take a batch.
    """
    wrapped, programs, made = UserFunction(function), {}, []
    for number, batch in enumerate(batches, start=1):
        args = batch if isinstance(batch, tuple) else (batch,)
        with _fitting(wrapped.name, number):
            leaves, tree = wrapped.flatten(args, {})
            if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
                raise CaptureError(f"batch {number} holds types: {wrapped.name} runs on it, so give arrays")
            key = (tree, tuple(str(jax.typeof(leaf)) for leaf in leaves))
            if key not in programs:
                programs[key] = capture(wrapped, leaves, tree)
        program = programs[key]
        if program.refusal:
            raise CaptureError(f"{program.name} cannot be calibrated: {program.refusal}")
        made.append(Batch(program, [*program.constants, *leaves], f"batch {number}"))
    return made


@contextlib.contextmanager
def _fitting(name: str, number: int) -> Iterator[None]:
    """What a function says to arguments that it does not take, with the batch they came from."""
    try:
        yield
    except HireError:
        raise
    except Exception as error:
        said = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
        raise CaptureError(
            f"{name} does not take batch {number} ({type(error).__name__}: {said}): give the arguments of one call of "
            "it, a tuple for each batch"
        ) from error


@dataclass
class Instruments:
    """Programs with probes, each compiled once.

    Attributes:
      add: from a program to one with probes.
    """

    add: Callable[[Program], Instrumented]
    known: dict[int, tuple[Instrumented, Any]] = field(default_factory=dict)

    def look(self, batch: Batch) -> tuple[Instrumented, list[Any]]:
        """What the probes of a batch's program saw."""
        program = batch.program
        if id(program) not in self.known:
            made = self.add(program)
            out_avals, own = (*program.out_avals, *probe_avals(made.probes)), len(program.out_avals)
            run = jax.jit(lambda *values: _mlir.run_module(made.module, out_avals, values)[own:])
            self.known[id(program)] = made, run
        made, run = self.known[id(program)]
        return made, run(*batch.values)


def calibrated(batches: Sequence[Batch], kind: str | None, told: Progress) -> Calibration:
    """What :func:`hire_compiler.calibrate` learns.

    Raises:
      CaptureError: there is no site of that kind.
      WeightError: an input row was NaN or Inf.
    """
    platform, learner = jax.default_backend(), Learner()
    instruments = Instruments(lambda program: instrument_program(program, kind, platform, STRONGEST))
    for done, batch in enumerate(batches):
        told("calibrating", done, len(batches))
        made, seen = instruments.look(batch)
        if not made.probes:
            what = f"{kind} site" if kind else "site"
            raise CaptureError(f"{batch.program.name} has no {what} to calibrate{but_for(made)}")
        learner.skip(made.skipped)
        learner.add(made.probes, seen, batch.origin)
    return learner.calibration()


def rows_read(batches: Sequence[Batch], told: Progress) -> dict[str, np.ndarray]:
    """The rows that sites read, by the site's key: float32 ``[N, d]``, or stacked ``[layers, N, d]``.

    Raises:
      WeightError: one of them is NaN or Inf.
    """
    instruments = Instruments(lambda program: show_inputs(program, jax.default_backend()))
    rows: dict[str, list[np.ndarray]] = {}
    for done, batch in enumerate(batches):
        told("running held-out batches", done, len(batches))
        made, seen = instruments.look(batch)
        for probe, found in zip(made.probes, map(np.asarray, seen), strict=True):
            if not np.isfinite(found).all():
                raise WeightError(f"{batch.origin}: the input of {probe.key} holds NaN or Inf, nothing can be measured")
            rows.setdefault(probe.key, []).append(found)
    return {key: np.concatenate(parts, axis=-2) for key, parts in rows.items()}


def check_weights(step: Program, batches: Sequence[Batch], sites: Iterable[Head | Block]) -> None:
    """Refuse a forward pass that reads weights of another size under the names of the step's.

    Raises:
      ConfigError: names the weight, and both shapes.
    """
    passes = {id(batch.program): batch.program for batch in batches}.values()
    read = {at for site in sites for weight in site.match.weights for at in weight.arguments}
    for own in (step.arguments[at] for at in sorted(read)):
        for other in (a for program in passes for a in program.arguments if a.name == own.name):
            if other.shape != own.shape:
                raise ConfigError(
                    f"{own.name} is {list(other.shape)} in the batches and {list(own.shape)} in the step: give both "
                    "the same weights"
                )


def check_batches(count: int) -> None:
    """Refuse batches of which none could be held out.

    Raises:
      ConfigError: says so.
    """
    if count < 2:
        raise ConfigError(
            f"tune got {'one batch' if count else 'no batches'}: half of them calibrate and half are held out, so give "
            "two or more"
        )
