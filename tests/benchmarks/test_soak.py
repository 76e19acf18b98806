"""Small versions of ``python -m benchmarks.soak``: nothing grows, nothing stays behind, threads do not mix weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.soak import interrupted, steady, together
from benchmarks.soak.__main__ import problems
from benchmarks.soak.curves import draw


def silent(items: Iterable[int], _what: str) -> Iterable[int]:
    return items


@pytest.mark.slow
def test_memory_stays_where_it_is_over_calls_and_answers_stay_those_of_dense(tmp_path: Path) -> None:
    result = steady.many_calls(400, silent)
    assert result["wrong"] == 0
    assert result["compared"] == 4
    assert result["memory_growth_mb"] < 8
    draw({"calls": result}, tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the weights were different arrays")
def test_old_sets_of_weights_are_let_go_of() -> None:
    result = steady.many_weights(8, silent)
    assert (result["wrong"], result["arrays_alive"]) == (0, 0)


@pytest.mark.slow
def test_nothing_of_a_forgotten_function_stays_behind() -> None:
    result = steady.many_functions(3, silent)
    assert result["alive"] == 0
    assert result["contexts"][-1] == result["contexts"][1]


@pytest.mark.slow
def test_threads_with_weights_of_their_own_do_not_mix_them() -> None:
    assert problems(together.two_threads(20)) == []


def test_what_is_not_as_it_should_be_is_said() -> None:
    assert problems({"wrong": 0, "memory_growth_mb": 1.0}) == []
    assert problems({"wrong": 2, "memory_growth_mb": 90.0}) == ["wrong is 2", "memory_growth_mb is 90"]


@pytest.mark.slow
def test_workers_that_are_forked_or_spawned_decode_as_dense() -> None:
    assert problems(together.forked()) == []
    assert problems(together.spawned(2)) == []


@pytest.mark.slow
def test_a_signal_at_any_moment_of_any_verb_leaves_nothing_half_written(tmp_path: Path) -> None:
    result = interrupted.every_verb(tmp_path / "work", 2, silent)
    assert result["problems"] == []
