"""What a calibration run learned: second moments of the sites' inputs, and which neurons were active."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from hire_compiler.config.rules import Rule
from hire_compiler.learned.activity import Activity
from hire_compiler.learned.trial import HeadTrial, Trial

WINNERS = 64
FEW_ROWS = 64  # fewer rows than this say little of anything
_USUAL_RANK = 8  # what ordinary inputs span at least
_PROBES = 64  # dimensions in which the rank of a moment is looked at
_NOISE = 1e-5  # of a moment's largest eigenvalue, which sums in float32 leave where there is nothing


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

    def doubt(self, rank: int) -> str:
        """Why it may say too little for factors of that rank, as the end of a sentence; or ''."""
        d = self.total.shape[-1]
        counted = "1 row" if self.rows == 1 else f"{self.rows} rows"
        wanted = "1000 rows or more of ordinary inputs are a good start"
        if self.rows < min(max(rank, FEW_ROWS), d):
            return f"{counted} of calibration, too few for inputs of {d} numbers: {wanted}"
        least = min(max(rank, 2), _PROBES, d)
        if (spanned := self._spanned(least)) < least:
            return (
                f"{counted} of calibration that span only {spanned} of {d} dimensions (the same inputs again and "
                f"again?): {wanted}"
            )
        return ""

    def _spanned(self, least: int) -> int:
        """The numerical rank of the moment (of the poorest layer), as far as ``least``.

        A random projection to so many dimensions keeps the rank up to there, and is much cheaper than all eigenvalues.
        """
        d = self.total.shape[-1]
        probes = np.random.default_rng(0).standard_normal((d, least))
        seen = probes.T @ (self.total.reshape(-1, d, d) @ probes)
        eigenvalues = np.linalg.eigvalsh((seen + seen.swapaxes(-1, -2)) / 2)
        return int((eigenvalues > _NOISE * eigenvalues[..., -1:]).sum(axis=-1).min())


@dataclass(frozen=True)
class Calibration:
    """What was seen, filed by the weight that reads the input.

    What was learned on one program (a batched forward pass) serves every other (the decode step) that
    reads the same argument under the same name.

    Attributes:
      moments: from a weight's name and input width, ``params['embed'][640]``, to the moment.
      activities: from the rows of a block's gate (or only up-projection), ``params['up']|transpose(1, 0)``, to what is
        known of its neurons.
      trials: by :func:`trial_key`, what a rule's predictor found there.
      winners: from a head's weight, named as for moments, to how often each of its rows was among the best
        :data:`WINNERS` of a row of logits: float64 ``[n]``.
      skipped: what was not looked at, named as the rest, and why not.
      head_trials: from a head's weight and a predictor, to what it found there.
    """

    moments: dict[str, Moment] = field(default_factory=dict)
    activities: dict[str, Activity] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    winners: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    head_trials: dict[str, HeadTrial] = field(default_factory=dict)

    def moment(self, weight: str) -> Moment | None:
        """The moment for the input of the product with a weight, if the calibration saw it."""
        return self.moments.get(weight)

    def activity(self, rows: str) -> Activity | None:
        """What is known of the neurons of a block, if the calibration saw it."""
        return self.activities.get(rows)

    def trials_of(self, rows: str) -> dict[str, Trial]:
        """What predictors found on a block, by what they were (:func:`tried`)."""
        return {key.removeprefix(f"{rows}|"): trial for key, trial in self.trials.items() if key.startswith(f"{rows}|")}

    def head_trials_of(self, weight: str) -> dict[str, HeadTrial]:
        """What predictors found on a head, by what they were."""
        start = f"{weight}|"
        return {key.removeprefix(start): trial for key, trial in self.head_trials.items() if key.startswith(start)}

    def doubts(self) -> tuple[str, ...]:
        """What it knows too little of, a sentence each."""
        few = [f"{key}: {doubt}" for key, moment in self.moments.items() if (doubt := moment.doubt(_USUAL_RANK))]
        return (*few, *(f"{key} was not looked at: {why}" for key, why in self.skipped.items()))

    @property
    def digest(self) -> str:
        """A short fingerprint, part of the identity of what is prepared with the moments."""
        digest = hashlib.sha256()
        for key in sorted(self.moments):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(self.moments[key].total).tobytes())
        return digest.hexdigest()[:12]

    def __str__(self) -> str:
        seen = [f"{key}: {moment.rows} rows" for key, moment in self.moments.items()]
        seen += [
            f"{key}: {activity.union(1):.1%} of {activity.width} neurons active a row"
            for key, activity in self.activities.items()
        ]
        seen += [f"{key}: {np.count_nonzero(counts)} of {len(counts)} rows won" for key, counts in self.winners.items()]
        seen += [f"{key} not looked at, {why}" for key, why in self.skipped.items()]
        return f"Calibration({', '.join(seen) or 'empty'})"


def tried(rule: Rule) -> str:
    """What a trial is about: a predictor, a size of group, and what groups count with."""
    return f"{rule.predictor}, groups of {rule.group}, {rule.score}"


def trial_key(rows: str, rule: Rule) -> str:
    """Under which name a calibration keeps what a rule's predictor found on a block."""
    return f"{rows}|{tried(rule)}"
