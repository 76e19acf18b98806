"""The identity of what is prepared: equal for sites, of any signature, that can share the arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, order=True)
class PreparedKey:
    """What the arrays are made of. Its text names them in files and in what users are handed; nobody reads it back.

    Attributes:
      kind: of the site.
      predictor: its printed form, with what is prepared beside it.
      learned: digest of the calibration that enters, or ''.
      platform: whose forms the arrays have.
      weights: the predicted matrix, those beside it, and vectors, each by exactly what it is.
      name: of the argument that holds the predicted matrix.
      mesh: on which every device has its own, or ''.
      split: how they are split over it.
    """

    kind: str
    predictor: str
    learned: str
    platform: str
    weights: tuple[str, ...]
    name: str
    mesh: str = ""
    split: str = ""

    def __str__(self) -> str:
        placed = (f"mesh {self.mesh}; {self.split}",) if self.mesh else ()
        return "|".join([self.kind, self.predictor, self.learned, self.platform, *self.weights, *placed])


def digest(index: np.ndarray) -> str:
    """A name for an array of whole numbers, the same in every process."""
    # Not Python's ``hash``: it differs from process to process, and keys are saved with the weights.
    return hashlib.sha256(np.ascontiguousarray(index, np.int64).tobytes()).hexdigest()[:16]
