"""What is to be known of a layer of experts: by its plan, and by a calibration."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hire_compiler.passes.kinds.probes import Look
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.patterns.experts.experts import ExpertsMatch
from hire_compiler.runtime.target import Target


def experts_facts(matches: Sequence[ExpertsMatch], target: Target) -> list[SiteFacts]:
    """What the layers of experts of a program say of themselves."""
    return [SiteFacts(target.costs, experts=True, exact_zeros=True, routed=match.routed) for match in matches]


def experts_looks(match: ExpertsMatch, strongest: float, wanted: Collection[str]) -> list[Look]:
    """Nothing: the program itself says which experts a call uses."""
    return []


def no_experts_trial(match: ExpertsMatch) -> None:
    """No predictor is tried where none is used."""
