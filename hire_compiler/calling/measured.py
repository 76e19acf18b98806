"""What rewritten sites measured about themselves while they ran, gathered without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from hire_compiler import _mlir
from hire_compiler.passes.plan.adapted import BlockCounts
from hire_compiler.passes.splice.splice import Measured
from hire_compiler.reports.report import Certificate, Report, TailError
from hire_compiler.runtime.skip_zeros import SHARES


class Measurements:
    """Sums, over all calls, of what sites count; of two floats, the maximum of the second."""

    def __init__(self, counters: Sequence[Measured], report: Report) -> None:
        self._counters = tuple(counters)
        self._batch = {site.id: site.batch for site in report.sites}
        self._runs_at = {counter.site: i for i, counter in enumerate(counters) if counter.measure == "runs"}
        self._pending: list[list[Any]] = []
        self._calls = 0
        self._sums = [np.zeros(prod(counter.shape)) for counter in counters]
        self._largest = np.zeros(len(counters))
        self._whole = np.zeros(len(counters))  # calls in which every row was proven

    @property
    def calls(self) -> int:
        """How many calls were counted, or will be as soon as their numbers arrive."""
        return self._calls + len(self._pending)

    def add(self, counts: list[Any]) -> None:
        """Take the counters of one call."""
        if any(_mlir.is_tracer(count) for count in counts):
            return  # inside an outer jit the numbers stay there
        self._pending.append(counts)
        if len(self._pending) >= 256:
            self._settle()

    def have_arrived(self, calls: int) -> bool:
        """Whether the numbers of the first calls can be read without waiting for the device."""
        pending = self._pending[: max(calls - self._calls, 0)]
        return self.calls >= calls and all(count.is_ready() for counts in pending for count in counts)

    def held(self) -> dict[str, float]:
        """By site, the share of its runs in which the proof of every row held; in loops, as if it failed row by row."""
        self._settle()
        shares = {}
        for i, counter in enumerate(self._counters):
            if counter.measure == "proof" and counter.site in self._runs_at:
                rows = self._rows(counter.site)
                shares[counter.site] = float(self._sums[i][0] / rows) ** self._batch[counter.site] if rows else 1.0
            elif counter.measure == "proof":
                shares[counter.site] = float(self._whole[i] / max(self._calls, 1))
        return shares

    def block_counts(self) -> dict[str, BlockCounts]:
        """What exact blocks counted, by site."""
        self._settle()
        found = {}
        for i, counter in enumerate(self._counters):
            if counter.measure == "proof" and counts_budgets(counter):
                found[counter.site] = _split_counts(tuple(map(round, self._sums[i].tolist())))
        return found

    def _settle(self) -> None:
        pending, self._pending = self._pending, []
        self._calls += len(pending)
        for counts in pending:
            for i, count in enumerate(counts):
                numbers = np.asarray(count, np.float64).ravel()
                self._sums[i] += numbers
                self._whole[i] += numbers[0] >= self._batch[self._counters[i].site]
                self._largest[i] = max(self._largest[i], numbers[-1])

    def _rows(self, site: str) -> int:
        """Batch rows that a site has seen."""
        runs = self._sums[self._runs_at[site]][0] if site in self._runs_at else self._calls
        return self._batch[site] * round(runs)

    def certificates(self) -> tuple[Certificate, ...]:
        """Of every site whose answer is proven at run time."""
        blocks = self.block_counts()
        return tuple(
            Certificate(
                site=counter.site,
                rows=self._rows(counter.site),
                proven=round(self._sums[i][0]),
                ran=blocks[counter.site].ran if counter.site in blocks else (),
                slack=0.0 if _counts_only(counter) else float(self._largest[i]),
            )
            for i, counter in enumerate(self._counters)
            if counter.measure == "proof"
        )

    def tails(self) -> tuple[TailError, ...]:
        """Of every site whose predicted logits are read."""
        self._settle()
        return tuple(
            TailError(
                site=counter.site,
                rows=self._rows(counter.site),
                rms=float(np.sqrt(self._sums[i][0] / max(self._rows(counter.site), 1))),
                largest=float(self._largest[i]),
            )
            for i, counter in enumerate(self._counters)
            if counter.measure == "tail"
        )


def _split_counts(numbers: tuple[int, ...]) -> BlockCounts:
    """What an exact block returned, taken apart."""
    return BlockCounts(numbers[0], numbers[1 : -SHARES - 1], numbers[-SHARES - 1 :])


def _counts_only(counter: Measured) -> bool:
    """Whether all that it holds are numbers of runs or rows; else a largest error stands behind them."""
    return counter.dtype.startswith("int") or not counter.shape


def counts_budgets(counter: Measured) -> bool:
    """Whether an exact block counted it: behind the rows proven stand budgets and shares."""
    return _counts_only(counter) and prod(counter.shape) > SHARES
