"""Trials of heads: where the predictors that rules name put the rows that win on calibration rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration.head_ranks import ranks_of, winners_of
from hire_compiler.calibration.what_is_compared import what_is_compared
from hire_compiler.capture.placement import on_automatic_axes
from hire_compiler.config.predictors import Predictor
from hire_compiler.config.rules import Config
from hire_compiler.learned.calibration import Calibration
from hire_compiler.learned.trial import COUNTS, TOPS, HeadTrial
from hire_compiler.passes.plan.choose_rule import first_rule
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.site_match import SiteMatch, moment_key, of_kind
from hire_compiler.reports.report import Site
from hire_compiler.runtime.materialize import materialize


@dataclass(frozen=True, eq=False)
class HeadCandidate:
    """A head whose rule asks for a recall."""

    match: HeadMatch
    predictor: Predictor

    @property
    def key(self) -> str:
        """Of the input rows that are kept for it."""
        return moment_key(self.match)


def heads_for_trial(sites: Sequence[Site], matches: Sequence[SiteMatch], config: Config) -> tuple[HeadCandidate, ...]:
    """The heads whose rule asks for a recall, once for each weight."""
    found: dict[str, HeadCandidate] = {}
    sites_of = dict(zip(matches, sites, strict=True))
    for match in of_kind(matches, HeadMatch):
        rule = first_rule(sites_of[match], config)
        if rule is None or rule.recall is None or rule.predictor is None:
            continue
        if match.dot.weight.layers is None:
            found.setdefault(moment_key(match), HeadCandidate(match, rule.predictor))
    return tuple(found.values())


def try_heads(
    candidates: Iterable[HeadCandidate], inputs: Mapping[str, np.ndarray], values: Sequence[Any], learned: Calibration
) -> dict[str, HeadTrial]:
    """What each predictor found, by weight and predictor.

    Args:
      inputs: by key of a candidate, rows ``[n, d]`` of its input.
      values: arguments of ``@main``.
    """
    trials = {}
    values = [on_automatic_axes(value) for value in values]
    for candidate in candidates:
        moment, rows = learned.moment(candidate.key), inputs[candidate.key]
        with _mlir.own_settings():
            weight = materialize(candidate.match.dot.weight, values)
            mean, compared = None if moment is None else moment.mean, what_is_compared(candidate.match, values)
            winners = winners_of(weight, rows, min(TOPS[-1], weight.shape[0]), compared)
            ranks = ranks_of(weight, candidate.predictor, mean, rows, winners, compared)
        found = [[float((ranks[:, :top] < k).mean()) for k in COUNTS] for top in TOPS]
        trials[f"{candidate.key}|{candidate.predictor}"] = HeadTrial(np.asarray(found), len(rows))
    return trials
