"""Several processes with one model: they decode as one, and a lost one ends them all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launched(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.multiprocess", "--tokens", "4", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_lost_process_ends_the_others_with_a_sentence() -> None:
    start = time.monotonic()
    done = launched("--processes", "2", "--lose", "1")
    assert done.returncode == 1
    assert "process 1 of 2 was ended by signal 9, so the others were stopped" in done.stderr
    assert time.monotonic() - start < 120  # the watch itself takes a tenth of a second; the rest is starting


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1x4", "2x2"])
def test_four_processes_decode_the_tokens_of_dense(mesh: str) -> None:
    done = launched("--mesh", mesh)
    assert done.returncode == 0, done.stderr
    assert "4 processes, 4 devices" in done.stdout
    assert "on, 3 of 3 sites rewritten" in done.stdout
    assert "tokens equal to dense on process 0: True" in done.stdout


@pytest.mark.slow
def test_weights_prepared_for_another_mesh_end_all_processes_with_a_sentence() -> None:
    done = launched("--planned", "2x2")
    assert done.returncode == 1
    assert "made for the mesh batch=2×model=2 and the weights lie on the mesh batch=1×model=4" in done.stderr


@pytest.mark.slow
def test_a_silent_process_is_a_lost_one() -> None:
    done = launched("--processes", "2", "--silence", "0.05")
    assert done.returncode == 1
    assert "said nothing for" in done.stderr
