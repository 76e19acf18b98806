"""Tune a program, however it came: a function that was captured, or an export."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from hire_compiler.calibration.what_is_compared import what_is_compared
from hire_compiler.capture.program import Program
from hire_compiler.errors import ConfigError
from hire_compiler.files.progress import Progress
from hire_compiler.runtime.materialize import materialize
from hire_compiler.tuning.batches import Batch, calibrated, check_weights, rows_read
from hire_compiler.tuning.blocks import never_tried
from hire_compiler.tuning.budget import Budget
from hire_compiler.tuning.loss_search import LossSearch
from hire_compiler.tuning.losses import enough_text
from hire_compiler.tuning.search import Interrupted, Search
from hire_compiler.tuning.timed_blocks import alike
from hire_compiler.tuning.tuned import Tuned
from hire_compiler.tuning.tuned_sites import Block, Head, find_sites


def tune_program(
    program: Program, values: Sequence[Any], passes: Callable[[], Sequence[Batch]], budget: Budget, told: Progress
) -> Tuned:
    """Choose a setting for every site of a decode step.

    Args:
      values: arguments of its ``@main``.
      passes: gives calls of a forward pass, of which the first half calibrates.

    Raises:
      ConfigError: there is nothing to tune, there are too few rows to measure on, or no logits to measure a loss of.
    """
    heads, blocks = _sites(program, values)
    batches = passes()
    half = len(batches) // 2
    held_out = batches[half:]
    check_weights(program, batches, [*heads, *blocks])
    if budget.loss is not None:
        enough_text(held_out)  # refuses what cannot be measured before anything takes long
    looked_at = [block for block in blocks if not never_tried(block, by_recall=budget.recall is not None)]
    calibration = calibrated(batches[:half], "head" if heads and not looked_at else None, told)
    inputs = rows_read(held_out, told)
    if budget.loss is not None:
        costly = LossSearch(budget.loss, budget.memory, calibration, told)
        with contextlib.suppress(Interrupted):
            for head in heads:
                costly.head(head, materialize(head.match.dot.weight, values), inputs)
            costly.blocks(blocks, inputs, values, held_out)
        return _with_doubts(costly.tuned())
    assert budget.recall is not None
    search = Search(budget.recall, budget.memory, calibration, told)
    with contextlib.suppress(Interrupted):
        for head in heads:
            weight, compared = materialize(head.match.dot.weight, values), what_is_compared(head.match, values)
            search.head(head, weight, inputs, compared)
        for some in alike(blocks):
            search.blocks(some, inputs, values)
    return _with_doubts(search.tuned())


def _with_doubts(found: Tuned) -> Tuned:
    """The same, with what its calibration knows too little of among the notes."""
    doubts = [f"calibration: {doubt}" for doubt in found.calibration.doubts()[:3]]
    return replace(found, notes=(*found.notes, *doubts))


def _sites(program: Program, values: Sequence[Any]) -> tuple[tuple[Head, ...], tuple[Block, ...]]:
    heads, blocks = ((), ()) if program.refusal else find_sites(program, jax.default_backend())
    if not (heads or blocks):
        why = program.refusal or "hire.inspect(…) says what was found; heads stored in few bits are not tuned yet"
        raise ConfigError(f"{program.name} has no site to tune: {why}")
    tuned: list[Head | Block] = [*heads, *blocks]
    for site in tuned:
        lost = [w.name for w in site.match.weights for at in w.arguments if values[at] is None]
        if lost:
            raise ConfigError(f"{site.site.id} reads {lost[0]}, which no file of weights holds: give its weights")
    return heads, blocks
