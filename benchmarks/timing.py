"""Fair timing on a noisy machine: everything interleaved, medians, ratios of medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Clock = Callable[[], float]


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, *, warmup: int = 2, clock: Clock = time.perf_counter
) -> dict[str, np.ndarray]:
    """Seconds of every run of every candidate, taken in turns: A B C A B C …

    Before each timed run the same candidate runs once untimed: a neighbour that allocates much would
    otherwise be paid for by whoever comes after it.

    Args:
      clock: ``time.process_time`` counts what all threads of this process spent, which other work hardly changes.
    """
    for run in runs.values():
        for _ in range(warmup):
            jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            jax.block_until_ready(run())
            began = clock()
            jax.block_until_ready(run())
            seconds[name].append(clock() - began)
    return {name: np.asarray(taken) for name, taken in seconds.items()}


def median_ms(seconds: np.ndarray) -> float:
    """Median in milliseconds."""
    return float(np.median(seconds)) * 1e3


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A plain table, columns aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
