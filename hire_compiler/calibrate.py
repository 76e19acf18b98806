"""``calibrate``: run a program on real inputs and learn the second moments that ``LowRank`` needs."""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration import Calibration, Moment
from hire_compiler.errors import CaptureError, WeightError
from hire_compiler.passes.instrument import Instrumented
from hire_compiler.passes.pipeline import instrument_program
from hire_compiler.program import Callable, capture


def calibrate(
    function: Function[..., Any],
    batches: Iterable[Any],
    *,
    kind: str | None = None,
    progress: Function[[int, Any], None] | None = None,
) -> Calibration:
    """Accumulate E[xxᵀ] at the input of every site, loops included.

    What is learned is filed under the *names of the weights*, so a batched forward pass over real text
    calibrates the decode step that takes the same ``params`` argument. One thousand rows or more of ordinary text
    are a good start.

    Args:
      function: what to run; it need not be the function that is transformed later.
      batches: arguments of one call each: a tuple of positional arguments, or a single argument.
      kind: ``"head"`` or ``"ffn"`` to probe only those sites; all by default.
      progress: called after every batch with (batches done, the function's own result).

    Raises:
      CaptureError: the function has callbacks or no site of that kind.
      WeightError: an input row was NaN or Inf.
    """
    wrapped = Callable(function)
    programs: dict[Any, tuple[Instrumented, Any, tuple[Any, ...], Any]] = {}
    totals: dict[str, np.ndarray] = {}
    rows: dict[str, int] = {}
    for done, batch in enumerate(batches, start=1):
        args = batch if isinstance(batch, tuple) else (batch,)
        leaves, tree = wrapped.flatten(args, {})
        key = (tree, tuple(str(jax.typeof(leaf)) for leaf in leaves))
        if key not in programs:
            programs[key] = _compile(wrapped, leaves, tree, kind)
        probes, run, constants, out_tree = programs[key]
        outputs = run(*constants, *leaves)
        own = len(outputs) - len(probes.probes)
        for probe, total in zip(probes.probes, outputs[own:], strict=True):
            moment = np.asarray(total, np.float64)
            if not np.isfinite(moment).all():
                raise WeightError(f"batch {done}: the input of {probe.key} holds NaN or Inf, nothing can be learned")
            totals[probe.key] = totals.get(probe.key, 0) + moment
            rows[probe.key] = rows.get(probe.key, 0) + probe.rows
        if progress is not None:
            progress(done, jax.tree.unflatten(out_tree, outputs[:own]))
    if not programs:
        raise CaptureError("calibrate got no batches: pass an iterable of argument tuples")
    return Calibration({key: Moment(total, rows[key]) for key, total in totals.items()})


def _compile(
    function: Callable, leaves: list[Any], tree: Any, kind: str | None
) -> tuple[Instrumented, Any, tuple[Any, ...], Any]:
    program = capture(function, leaves, tree)
    if program.refusal:
        raise CaptureError(f"{program.name} cannot be calibrated: {program.refusal}")
    instrumented = instrument_program(program, kind, jax.default_backend())
    if not instrumented.probes:
        raise CaptureError(
            f"{program.name} has no {'' if kind is None else kind + ' '}site to calibrate; "
            "hire.inspect(…) says what was found and what missed"
        )
    extra = [jax.core.ShapedArray(shape, np.dtype(np.float32)) for shape in instrumented.shapes]
    out_avals = (*program.out_avals, *extra)

    def run(*operands: Any) -> list[Any]:
        return _mlir.run_module(instrumented.module, out_avals, operands)

    return instrumented, jax.jit(run), program.constants, program.out_tree
