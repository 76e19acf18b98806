"""What rewritten sites measured about themselves while they ran, gathered without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hire_compiler import _mlir
from hire_compiler.passes.splice import Counter
from hire_compiler.report import Certificate, Report, TailError


class Measurements:
    """Sums, over all calls, of the first number of every counter, and maxima of the second."""

    def __init__(self, counters: Sequence[Counter], report: Report) -> None:
        self._counters = tuple(counters)
        self._batch = {site.id: site.batch for site in report.sites}
        self._pending: list[list[Any]] = []
        self._calls = 0
        self._sums = np.zeros(len(counters))
        self._largest = np.zeros(len(counters))

    def add(self, counts: list[Any]) -> None:
        """Take the counters of one call."""
        if any(_mlir.is_tracer(count) for count in counts):
            return  # inside an outer jit the numbers stay there
        self._pending.append(counts)
        if len(self._pending) >= 256:
            self._settle()

    def _settle(self) -> None:
        pending, self._pending = self._pending, []
        self._calls += len(pending)
        for counts in pending:
            for i, count in enumerate(counts):
                first, *rest = np.asarray(count, np.float64).ravel()
                self._sums[i] += first
                self._largest[i] = max(self._largest[i], *rest) if rest else 0.0

    def certificates(self) -> tuple[Certificate, ...]:
        """Of every site whose answer is proven at run time."""
        self._settle()
        return tuple(
            Certificate(
                site=counter.site,
                rows=self._batch[counter.site] * self._calls,
                proven=round(self._sums[i]),
                slack=float(self._largest[i]),
            )
            for i, counter in enumerate(self._counters)
            if counter.measure == "proof"
        )

    def tails(self) -> tuple[TailError, ...]:
        """Of every site whose predicted logits are read."""
        self._settle()
        rows = [self._batch[counter.site] * self._calls for counter in self._counters]
        return tuple(
            TailError(
                site=counter.site,
                rows=rows[i],
                rms=float(np.sqrt(self._sums[i] / max(rows[i], 1))),
                largest=float(self._largest[i]),
            )
            for i, counter in enumerate(self._counters)
            if counter.measure == "tail"
        )
