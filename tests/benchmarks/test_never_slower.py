"""The grid of ``python -m benchmarks.never_slower`` is as large as it says, and its picture shows every program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.never_slower import Case, block, grid, measure, program
from benchmarks.never_slower_picture import draw


def test_the_grid_has_programs_of_every_kind() -> None:
    cases = list(grid())
    assert len(cases) == len({str(case) for case in cases}) >= 60
    assert {case.dtype for case in cases if case.tied} == {"float32", "bfloat16"}
    assert max(case.rows for case in cases) == 262144


def test_as_many_neurons_are_active_as_a_case_says() -> None:
    function, w, inputs = program(Case(8, "float32", active=0.1), np.random.default_rng(0))
    assert function is block
    active = np.asarray(inputs[0] @ w["up"] + w["bias"] > 0).mean()
    assert active == pytest.approx(0.1, abs=0.01)


def test_every_program_is_a_line_of_the_picture(tmp_path: Path) -> None:
    names = [(f"program {i}", 0.9 + i / 10, now) for i, now in enumerate(("exact", "certified", "given up"))]
    draw(names, 0.98, tmp_path / "ratios.svg")
    text = (tmp_path / "ratios.svg").read_text()
    assert text.count("program") >= 3


@pytest.mark.slow
def test_a_case_is_measured_after_adapting() -> None:
    busy = measure(Case(1, "float32", active=0.6), 0.1, "cpu")
    assert (busy.now, busy.planned_mb, busy.read_mb) == ("given up", 67.11, 67.11)
