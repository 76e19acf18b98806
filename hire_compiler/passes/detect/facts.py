"""Facts: what the plan must know of each site beyond its report line, read off its match and the calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from hire_compiler.graph.weight import Weight
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.kinds.kinds import KINDS
from hire_compiler.passes.plan.site_plan import NOTHING, Learned, SiteFacts, SitePlan
from hire_compiler.passes.replace.preparing import copied_bytes
from hire_compiler.patterns.site_match import SiteMatch, computed_type, moment_key
from hire_compiler.runtime.target import Target

Fits = Callable[[Weight], bool]


def site_facts(
    matches: Sequence[SiteMatch], calibration: Calibration | None, target: Target, devices: int, fast_math: str = ""
) -> list[SiteFacts]:
    """The facts of every site of a program whose arguments are spread over so many devices.

    Args:
      fast_math: why nothing can be proven of the arithmetic that it is compiled to, or ''.
    """
    own: dict[SiteMatch, SiteFacts] = {}
    for name, kind in KINDS.items():
        alike = [match for match in matches if match.kind == name]
        own |= zip(alike, kind.facts(alike, target), strict=True)
    known = learned(matches, calibration)
    return [
        replace(
            own[match],
            weight_bytes=tuple(weight.nbytes for weight in match.weights),
            copied_bytes=copied_bytes(match),
            uncertifiable=(
                (fast_math or _too_narrow(match) or own[match].uncertifiable) if own[match].provable else ""
            ),
            narrow=any(weight.is_computed for weight in match.weights),
            drawn=own[match].drawn if devices == 1 else None,
            devices=devices,
            learned=known[match],
        )
        for match in matches
    ]


def halved_facts(
    facts: Sequence[SiteFacts], plans: Sequence[SitePlan], matches: Sequence[SiteMatch], fits: Fits
) -> list[SiteFacts]:
    """The facts of planned sites, with those halved whose float32 matrices hold bfloat16 numbers only.

    Args:
      fits: whether every entry of a float32 weight is one; asked only where that would pay.
    """
    return [
        replace(fact, halved=True)
        if _may_halve(plan, fact, match) and all(fits(weight) for weight in match.weights)
        else fact
        for fact, plan, match in zip(facts, plans, matches, strict=True)
    ]


def _may_halve(plan: SitePlan, facts: SiteFacts, match: SiteMatch) -> bool:
    """Whether a site reads float32 matrices that its step needs in no other form."""
    if plan.predictor is None or plan.common or plan.certify == "strict" or not facts.halvable:
        return False
    return all(type(w) is Weight and w.dtype == w.stored == "float32" and not _converted(w) for w in match.weights)


def _converted(weight: Weight) -> bool:
    return any(step.op == "convert" for step in weight.steps)


def _too_narrow(match: SiteMatch) -> str:
    """Why nothing is gained by a proof, or ''."""
    weight = match.ranked.weight
    if not computed_type(weight):
        return ""
    return f"its weight is stored narrow already ({weight.stored}), so an int8 copy for the proof would save nothing"


def learned(matches: Sequence[SiteMatch], calibration: Calibration | None) -> dict[SiteMatch, Learned]:
    """What a calibration knows of every site."""
    if calibration is None:
        return dict.fromkeys(matches, NOTHING)
    digest = cache(lambda: calibration.digest)  # reads every moment, so once for all sites, and only if one is used
    return {
        match: Learned(
            moment=calibration.moment(moment_key(match)),
            winners=calibration.winners.get(match.winner_key),
            activity=calibration.activity(match.neuron_key),
            trials=calibration.trials_of(match.neuron_key) if match.neuron_key else {},
            head_trials={} if match.neuron_key else calibration.head_trials_of(moment_key(match)),
            digest=digest,
            skipped=calibration.skipped.get(moment_key(match), ""),
        )
        for match in matches
    }
