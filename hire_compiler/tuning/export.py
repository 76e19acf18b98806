"""Tune a model that came as exports: of its decode step, and of a forward pass with the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hire_compiler.files.progress import Progress, no_progress
from hire_compiler.offline.source.calls import Calls
from hire_compiler.tuning.batches import Batch, check_batches
from hire_compiler.tuning.budget import Budget
from hire_compiler.tuning.program import tune_program
from hire_compiler.tuning.tuned import Tuned


def tune_export(
    target: Any,
    forward: Any,
    batches: Iterable[Any],
    budget: Budget,
    *,
    weights: Any = None,
    mapping: Mapping[str, str] | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = no_progress,
) -> Tuned:
    """Choose from real inputs what :func:`hire_compiler.tune` does, of an exported model.

    Args:
      target, weights, mapping, dims: as for ``hire.rewrite``.
      forward: the export of a forward pass whose weights have the names of the step's.
      batches: files (or mappings) with the other inputs of one call of it each.

    Raises:
      ConfigError: there are too few batches, or what ``tune`` refuses.
      WeightError: a weight or input is missing.
    """
    step, passes = Calls(target, weights, mapping, dims), Calls(forward, weights, mapping, dims)
    files = list(batches)
    check_batches(len(files))

    def calls() -> list[Batch]:
        return [Batch(passes.program, *passes.values(file)) for file in files]

    return tune_program(step.program, step.weights_alone(), calls, budget, progress)
