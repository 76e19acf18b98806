"""What a calibration run learned: second moments of the sites' inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Moment:
    """Second moment of one site's input.

    Attributes:
      total: sum of xxᵀ over all rows seen, float64 ``[d, d]`` (or ``[layers, d, d]``).
      rows: how many rows were seen (per layer).
    """

    total: np.ndarray
    rows: int

    @property
    def mean(self) -> np.ndarray:
        """E[xxᵀ], float32."""
        return (self.total / max(self.rows, 1)).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """Second moments, filed by the weight that reads the input.

    What was learned on one program (a batched forward pass) serves every other (the decode step) that
    reads the same argument under the same name.

    Attributes:
      moments: from a weight's name and input width, ``params['embed'][640]``, to the moment.
    """

    moments: dict[str, Moment] = field(default_factory=dict)

    def moment(self, weight: str) -> Moment | None:
        """The moment for the input of the product with a weight, if the calibration saw it."""
        return self.moments.get(weight)

    @property
    def digest(self) -> str:
        """A short fingerprint, part of the identity of what is prepared with it."""
        digest = hashlib.sha256()
        for key in sorted(self.moments):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(self.moments[key].total).tobytes())
        return digest.hexdigest()[:12]

    def __str__(self) -> str:
        seen = ", ".join(f"{key}: {moment.rows} rows" for key, moment in self.moments.items())
        return f"Calibration({seen or 'empty'})"
