"""What a predictor found on calibration rows: its recall and the block's error, at several numbers of candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hire_compiler.runtime.activity import TOGETHER

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
