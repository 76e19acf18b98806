"""``calibrate``: run a program on real inputs and learn what predictors and plans need."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration.head_trials import HeadCandidate, try_heads
from hire_compiler.calibration.instrument import Instrumented
from hire_compiler.calibration.instrument_program import instrument_program
from hire_compiler.calibration.trials import Candidate, run_trials
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.config.rules import Config, check_config
from hire_compiler.errors import CaptureError, ConfigError, HireWarning, WeightError
from hire_compiler.learned.activity import Activity
from hire_compiler.learned.calibration import Calibration, Moment
from hire_compiler.passes.kinds.probes import Probe
from hire_compiler.runtime.target import target_for

STRONGEST = 0.1

Entry = tuple[str, str, tuple[int, ...]]  # what, key and shape: probes of calls with other numbers of rows share one


def calibrate(
    function: Callable[..., Any],
    batches: Iterable[Any],
    *,
    kind: str | None = None,
    config: Config | None = None,
    strongest: float = STRONGEST,
    progress: Callable[[int, Any], None] | None = None,
) -> Calibration:
    """Learn, at every site, loops included, E[xxᵀ] of its input, and which neurons are active how often.

    What is learned is filed under the *names of the weights*, so a batched forward pass over real text
    calibrates the decode step that takes the same ``params`` argument. One thousand rows or more of ordinary text
    are a good start. Memory does not grow with the number of batches.

    Args:
      function: what to run; it need not be the function that is transformed later.
      batches: arguments of one call each: a tuple of positional arguments, or a single argument.
      kind: ``"head"`` or ``"ffn"`` to probe only those sites; all by default.
      config: whose predictors for feed-forward blocks are tried on up to 64 of the rows: what share of the active
        neurons each finds, and how far the block's output is off. Of heads whose rule has a ``recall``: which of the
        best rows each finds, on up to 2048 rows. A rule with a ``recall`` needs it.
      strongest: of an activation that makes no neuron exactly zero, the share of each row's neurons (those of largest
        absolute value) that counts as active.
      progress: called after every batch with (batches done, the function's own result).

    Raises:
      CaptureError: the function has callbacks or no site of that kind.
      ConfigError: ``strongest`` is no share.
      WeightError: an input row was NaN or Inf.

    Warns:
      HireWarning: the rows were too few, or always the same, to say much.
    """
    check_strongest(strongest)
    check_config(config)
    wrapped = UserFunction(function)
    programs: dict[Any, tuple[Instrumented, Any, tuple[Any, ...], Any]] = {}
    learner = Learner()
    for done, batch in enumerate(batches, start=1):
        args = batch if isinstance(batch, tuple) else (batch,)
        leaves, tree = wrapped.flatten(args, {})
        key = (tree, tuple(str(jax.typeof(leaf)) for leaf in leaves))
        if key not in programs:
            programs[key] = _compile(wrapped, leaves, tree, kind, strongest, config)
        instrumented, run, constants, out_tree = programs[key]
        outputs = run(*constants, *leaves)
        own = len(outputs) - len(instrumented.probes)
        learner.skip(instrumented.skipped)
        learner.add(instrumented.probes, outputs[own:], f"batch {done}")
        tried, values = instrumented.candidates, (*constants, *leaves)
        if progress is not None:
            progress(done, jax.tree.unflatten(out_tree, outputs[:own]))
    if not programs:
        raise CaptureError("calibrate got no batches: pass an iterable of argument tuples")
    learned = learner.with_trials(tried, values)
    if doubts := learned.doubts():
        warnings.warn(f"the calibration says too little: {'; '.join(doubts[:3])}", HireWarning, stacklevel=2)
    return learned


def check_strongest(share: Any) -> None:
    """Refuse what is no share of neurons.

    Raises:
      ConfigError: says so.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ConfigError(f"strongest is {share!r}: give the share of neurons that counts as active, such as 0.1")


class Learner:
    """Sums what probes saw, over all calls."""

    def __init__(self) -> None:
        self._probes: dict[Entry, Probe] = {}
        self._totals: dict[Entry, np.ndarray] = {}
        self._rows: dict[Entry, int] = {}
        self._inputs: dict[str, np.ndarray] = {}
        self._offered: dict[str, int] = {}
        self._skipped: dict[str, str] = {}
        self._rng = np.random.default_rng(0)

    def add(self, probes: Sequence[Probe], seen: Sequence[Any], where: str) -> None:
        """Take the results of one call.

        Raises:
          WeightError: an input was NaN or Inf; begins with ``where``.
        """
        for probe, result in zip(probes, seen, strict=True):
            total = np.asarray(result, np.float64)
            if not np.isfinite(total).all():
                raise WeightError(f"{where}: the input of {probe.key} holds NaN or Inf, nothing can be learned")
            if probe.what == "inputs":
                self._keep(probe.key, total, probe.kept)
                continue
            entry = (probe.what, probe.key, probe.shape)
            self._probes.setdefault(entry, probe)
            self._totals[entry] = self._totals.get(entry, 0) + total
            self._rows[entry] = self._rows.get(entry, 0) + probe.rows

    def skip(self, skipped: Mapping[str, str]) -> None:
        """Note what a program has that it could not show."""
        self._skipped |= skipped

    def _keep(self, key: str, rows: np.ndarray, most: int) -> None:
        """Keep a random sample of all rows ``[…, n, d]`` that were offered."""
        held, seen = self._inputs.get(key, rows[..., :0, :]), self._offered.get(key, 0)
        room = max(most - seen, 0)
        held = np.concatenate([held, rows[..., :room, :]], axis=-2)
        for i in range(room, rows.shape[-2]):
            place = int(self._rng.integers(seen + i + 1))
            if place < most:
                held[..., place, :] = rows[..., i, :]
        self._inputs[key], self._offered[key] = held, seen + rows.shape[-2]

    def with_trials(self, candidates: Sequence[Candidate | HeadCandidate], values: Sequence[Any]) -> Calibration:
        """Everything so far, and what predictors find on a sample of the inputs; ``values`` hold the weights."""
        inputs = {key: rows.astype(np.float32) for key, rows in self._inputs.items()}
        learned, blocks = self.calibration(), [c for c in candidates if isinstance(c, Candidate)]
        heads = [c for c in candidates if isinstance(c, HeadCandidate) and c.key in inputs]
        learned = run_trials(blocks, inputs, values, learned, target_for(jax.default_backend()))
        return replace(learned, head_trials=try_heads(heads, inputs, values, learned))

    def calibration(self) -> Calibration:
        """Everything so far."""
        known = {key for _, key, _ in self._totals}  # another program may have shown it
        learned = Calibration(skipped={key: why for key, why in self._skipped.items() if key not in known})
        for entry, total in self._totals.items():
            probe = self._probes[entry]
            if probe.what == "moment":
                learned.moments[probe.key] = Moment(total, self._rows[entry])
            elif probe.what == "winners":
                learned.winners[probe.key] = total
            else:
                learned.activities[probe.key] = Activity(probe.width, total, probe.strongest)
        return learned


def _compile(
    function: UserFunction, leaves: list[Any], tree: Any, kind: str | None, strongest: float, config: Config | None
) -> tuple[Instrumented, Any, tuple[Any, ...], Any]:
    program = capture(function, leaves, tree)
    if program.refusal:
        raise CaptureError(f"{program.name} cannot be calibrated: {program.refusal}")
    instrumented = instrument_program(program, kind, jax.default_backend(), strongest, config)
    if not instrumented.probes:
        raise CaptureError(
            f"{program.name} has no {'' if kind is None else kind + ' '}site to calibrate{but_for(instrumented)}; "
            "hire.inspect(…) says what was found and what missed"
        )
    out_avals = (*program.out_avals, *probe_avals(instrumented.probes))

    def run(*operands: Any) -> list[Any]:
        return _mlir.run_module(instrumented.module, out_avals, operands)

    return instrumented, jax.jit(run), program.constants, program.out_tree


def but_for(instrumented: Instrumented) -> str:
    """The sites that could not be probed, and why, as the end of a clause."""
    return "".join(f" ({key}: {why})" for key, why in instrumented.skipped.items())


def probe_avals(probes: Sequence[Probe]) -> list[Any]:
    """Types of what probes return."""
    return [jax.core.ShapedArray(probe.shape, np.dtype(np.float32)) for probe in probes]
