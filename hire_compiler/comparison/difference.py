"""How the results of two programs differ, gathered over several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

RECALL_AT = (1, 8, 64)


@dataclass
class Difference:
    """How one result differs over all trials.

    Attributes:
      name: where it stands among the results.
      spec: its type.
      largest: largest absolute error of a float result.
      scale: largest absolute value of the original.
      equal, total: entries of an integer result that agree, of how many.
      recall: of a result as wide as the vocabulary: share of the original's top k found in the artifact's, by k.
      squared_error, squared: sums of squares of the errors and of the original's values, where these are finite.
      width: of the last dimension.
    """

    name: str
    spec: str
    largest: float = 0.0
    scale: float = 0.0
    equal: int = 0
    total: int = 0
    recall: dict[int, float] = field(default_factory=dict)
    squared_error: float = 0.0
    squared: float = 0.0
    width: int = 0

    @property
    def relative(self) -> float:
        """The largest error, relative to the largest value."""
        return self.largest / (self.scale or 1.0)

    @property
    def rms(self) -> float:
        """The root mean square of the error, relative to that of the values."""
        return float(np.sqrt(self.squared_error / (self.squared or 1.0)))


def add_differences(
    into: Sequence[Difference], expected: Sequence[Any], found: Sequence[Any], widths: set[int]
) -> None:
    """Add the results of one input.

    Args:
      into: what was gathered so far, one a result.
      expected, found: of the original, and of the artifact.
      widths: of vocabularies; results as wide are logits.
    """
    for difference, wanted, got in zip(into, expected, found, strict=True):
        wanted, got = np.asarray(wanted), np.asarray(got)
        if not jnp.issubdtype(wanted.dtype, np.floating):
            difference.equal += int(np.sum(wanted == got))
            difference.total += wanted.size
            continue
        wide, narrow = wanted.astype(np.float64), got.astype(np.float64)
        same = (wide == narrow) | (np.isnan(wide) & np.isnan(narrow))  # infinities of a mask too
        with np.errstate(invalid="ignore"):  # of opposite infinities
            error = np.where(same, 0.0, np.nan_to_num(np.abs(wide - narrow), nan=np.inf, posinf=np.inf))
        difference.width = wide.shape[-1] if wide.ndim else 0
        finite = wide[np.isfinite(wide)]
        difference.largest = max(difference.largest, float(error.max(initial=0.0)))
        difference.scale = max(difference.scale, float(np.abs(finite).max(initial=0.0)))
        difference.squared_error += float(np.square(error).sum())
        difference.squared += float(np.square(finite).sum())
        if wide.ndim and wide.shape[-1] in widths:
            for k in (k for k in RECALL_AT if k <= wide.shape[-1]):
                difference.recall[k] = difference.recall.get(k, 0.0) + _recall(wide, narrow, k)


def _recall(wanted: np.ndarray, found: np.ndarray, k: int) -> float:
    rows, width = wanted.size // wanted.shape[-1], wanted.shape[-1]
    best = [np.argsort(-side.reshape(rows, width), axis=-1, kind="stable")[:, :k] for side in (wanted, found)]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*best, strict=True)]))
