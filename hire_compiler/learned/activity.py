"""What a calibration knows of a feed-forward block: how often each neuron is active, and how many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hire_compiler.runtime.count_active import BINS, TOGETHER, counted_groups, split_counts


@dataclass(frozen=True, eq=False)
class Activity:
    """Counts of active neurons, summed over calls.

    Attributes:
      width: neurons of the block.
      counts: float64 ``[counted_size]``, or ``[layers, counted_size]`` of stacked weights; see
        :mod:`hire_compiler.runtime.count_active`.
      strongest: share of each row's neurons that was taken for active; None where active means not zero.
    """

    width: int
    counts: np.ndarray
    strongest: float | None = None

    @property
    def groups(self) -> tuple[int, ...]:
        """The sizes of group that were counted."""
        return counted_groups(self.width)

    @property
    def rows(self) -> int:
        """Rows seen (of each layer)."""
        return round(float(self._sets(1, 1).min()))

    def frequency(self, group: int) -> np.ndarray:
        """In which share of the rows each group had an active neuron: ``[…, width / group]``."""
        return self._parts[0][group] / max(self.rows, 1)

    def measured(self, together: int) -> int:
        """The number of rows whose union stands for that of so many: the next larger one that was counted, or the most.

        Two rows of one call never touch less than one, and four never less than two.
        """
        counted = [n for n in TOGETHER if self._sets(1, n).min() > 0] or [1]
        return next((n for n in counted if n >= together), counted[-1])

    def union(self, group: int, together: int = 1) -> float:
        """Mean share of all groups that so many rows of a call touch between them (mean of the layers)."""
        shares = self._shares(group, together)
        bins = np.maximum(np.arange(BINS + 1) - 0.5, 0) / BINS
        return _grown(float((shares @ bins).mean()), self.measured(together), together)

    def most(self, group: int, together: int, quantile: float) -> float:
        """The share of groups that is enough for that share of the calls, in every layer."""
        enough = np.cumsum(self._shares(group, together), axis=-1) >= quantile - 1e-9
        return _grown(float(enough.argmax(axis=-1).max()) / BINS, self.measured(together), together)

    def pooled(self, group: int, together: int, quantile: float) -> float:
        """The share of groups that is enough for that share of all calls of all layers taken together."""
        enough = np.cumsum(self._shares(group, together).mean(axis=0)) >= quantile - 1e-9
        return _grown(float(enough.argmax()) / BINS, self.measured(together), together)

    def _shares(self, group: int, together: int) -> np.ndarray:
        """The histogram of shares, summing to one: ``[layers, BINS + 1]``."""
        rows = self.measured(together)
        histogram = self._histogram(group, rows)
        return histogram / np.maximum(histogram.sum(axis=-1, keepdims=True), 1)

    def _sets(self, group: int, rows: int) -> np.ndarray:
        return self._histogram(group, rows).sum(axis=-1)

    def _histogram(self, group: int, rows: int) -> np.ndarray:
        found = self._parts[1][..., self.groups.index(group), TOGETHER.index(rows), :]
        return found.reshape(-1, BINS + 1)

    @cached_property
    def _parts(self) -> tuple[dict[int, np.ndarray], np.ndarray]:
        return split_counts(self.counts, self.width)


def _grown(share: float, measured: int, together: int) -> float:
    """The union of more rows than were measured, as if the others were independent: rather too much than too little."""
    return share if together <= measured else 1 - (1 - min(share, 1.0)) ** (together / measured)
