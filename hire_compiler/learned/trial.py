"""What a predictor found on calibration rows: its recall and the block's error, at several numbers of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from hire_compiler.runtime.count_active import TOGETHER

SHARES = (1 / 64, 1 / 32, 3 / 64, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)


@dataclass(frozen=True, eq=False)
class Trial:
    """One predictor on one block.

    Attributes:
      found: float64 ``[len(TOGETHER), len(SHARES), 2]``: of so many rows that share a choice of that share of the
        neurons, the recall (share of the active neurons that were chosen), and the error of the block's output relative
        to its size (root mean squares). NaN where there were fewer rows. Of stacked layers the worst one.
      rows: calibration rows it was tried on (of each layer).
    """

    found: np.ndarray
    rows: int

    def at(self, share: float, together: int) -> tuple[float, float] | None:
        """Recall and error where that share of the neurons is computed; None if so few, or such a batch, was not tried.

        Between two shares that were tried, the smaller one speaks.
        """
        tried = [i for i, s in enumerate(SHARES) if s <= share + 1e-9]
        found = self._of(together)
        if found is None or not tried:
            return None
        recall, error = found[tried[-1]]
        return float(recall), float(error)

    def enough(self, recall: float, together: int) -> float | None:
        """The smallest share of the neurons, of those tried, whose recall is enough; None if there is none."""
        found = self._of(together)
        if found is None:
            return None
        return next((share for share, (r, _) in zip(SHARES, found, strict=True) if r >= recall), None)

    def best(self, together: int) -> float | None:
        """The recall of the largest share that was tried."""
        found = self._of(together)
        return None if found is None else float(found[-1, 0])

    def _of(self, together: int) -> np.ndarray | None:
        at = next((i for i, n in enumerate(TOGETHER) if n >= together), None)
        return None if at is None or np.isnan(self.found[at]).any() else self.found[at]


TOPS = (1, 8, 64)  # of the best rows of a head
COUNTS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, eq=False)
class HeadTrial:
    """One predictor on one head.

    Attributes:
      found: float64 ``[len(TOPS), len(COUNTS)]``: of so many best rows, the share that was among so many candidates.
      rows: calibration rows it was tried on.
    """

    found: np.ndarray
    rows: int

    def enough(self, recall: float, top: int) -> int | None:
        """The fewest candidates, of those tried, that hold that share of the best ``top`` rows; None if none do."""
        at = self._of(top)
        if at is None:
            return None
        return next((k for k, found in zip(COUNTS, at, strict=True) if found >= recall and k >= 2 * top), None)

    def at(self, candidates: int, top: int) -> float | None:
        """The recall of so many candidates; between two numbers that were tried, of the smaller one."""
        at, tried = self._of(top), [i for i, k in enumerate(COUNTS) if k <= candidates]
        return None if at is None or not tried else float(at[tried[-1]])

    def _of(self, top: int) -> np.ndarray | None:
        at = next((i for i, n in enumerate(TOPS) if n >= top), None)
        return None if at is None else self.found[at]


def rows_needed(recall: float) -> int:
    """How many rows of input it takes to tell a recall from a smaller one."""
    return ceil(1 / max(1 - recall, 1e-9) - 1e-6) - 1
