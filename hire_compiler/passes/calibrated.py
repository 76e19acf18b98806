"""Whether a calibration is one of this program, and enough for what its plan does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hire_compiler.calibration import FEW_ROWS, Calibration
from hire_compiler.config import Cascade, Exact, LowRank
from hire_compiler.errors import ConfigError
from hire_compiler.passes.detect import Match
from hire_compiler.passes.replacement import site_activity_key, site_moment_key
from hire_compiler.passes.site_plan import SitePlan
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.patterns.logits import HeadMatch
from hire_compiler.weights import Weight

ANOTHER = "it is another model's, or of another version of this one: calibrate this program"


@dataclass(frozen=True)
class Fitted:
    """A calibration without what cannot be of this program, and why that was left out."""

    calibration: Calibration | None
    misfits: tuple[str, ...] = ()


def fit_calibration(calibration: Calibration | None, matches: Sequence[Match]) -> Fitted:
    """Compare what was learned with the sites that it would serve: widths, layers and rows.

    Raises:
      ConfigError: it holds NaN or Inf.
    """
    if calibration is None:
        return Fitted(None)
    misfits: list[str] = []
    moments, activities = dict(calibration.moments), dict(calibration.activities)
    trials, winners = dict(calibration.trials), dict(calibration.winners)
    for match in matches:
        key = site_moment_key(match)
        block = site_activity_key(match) if isinstance(match, FfnMatch) else ""
        why = _moment_misfit(match, calibration) or (
            _activity_misfit(match, calibration) if isinstance(match, FfnMatch) else _winners_misfit(match, calibration)
        )
        if not why:
            continue
        misfits.append(why)
        moments.pop(key, None)
        winners.pop(key, None)
        activities.pop(block, None)
        trials = {name: trial for name, trial in trials.items() if not block or not name.startswith(f"{block}|")}
    return Fitted(Calibration(moments, activities, trials, winners), tuple(misfits))


def _activity_misfit(match: FfnMatch, calibration: Calibration) -> str:
    key, activity = site_activity_key(match), calibration.activity(site_activity_key(match))
    if activity is None or (activity.width == match.down.d and activity.counts.shape[:-1] == _stack(match)):
        return ""
    if activity.width != match.down.d:
        return f"the calibration saw {activity.width} neurons of {key}, and there are {match.down.d}: {ANOTHER}"
    return (
        f"the calibration saw {list(activity.counts.shape[:-1])} layers of {key}, not {list(_stack(match))}: {ANOTHER}"
    )


def _winners_misfit(match: HeadMatch, calibration: Calibration) -> str:
    counts = calibration.winners.get(site_moment_key(match))
    if counts is None or counts.shape == (match.dot.rows,):
        return ""
    rows = "×".join(map(str, counts.shape))
    return f"the calibration counted {rows} rows of {site_moment_key(match)}, and there are {match.dot.rows}: {ANOTHER}"


def _moment_misfit(match: Match, calibration: Calibration) -> str:
    """Why the second moment of a site's input, if there is one, cannot be of this program; or ''."""
    key, d = site_moment_key(match), _weight(match).shape[1]
    moment = calibration.moment(key)
    if moment is not None:
        if not np.isfinite(moment.total).all():
            raise ConfigError(f"the calibration's second moment of {key} holds NaN or Inf: calibrate again")
        expected = (*_stack(match), d, d)
        found = moment.total.shape
        return "" if found == expected else f"the moment of {key} is {list(found)}, not {list(expected)}: {ANOTHER}"
    name = key.removesuffix(f"[{d}]")
    others = [
        k.removeprefix(name) for k in calibration.moments if k.startswith(f"{name}[") and k.count("[") == key.count("[")
    ]
    widths = [other[1:-1] for other in others if other[1:-1].isdecimal()]
    if not widths:
        return ""
    return f"the calibration saw {name} with inputs of {widths[0]} numbers, and here they have {d}: {ANOTHER}"


def _weight(match: Match) -> Weight:
    return match.products[match.activation.gate].weight if isinstance(match, FfnMatch) else match.dot.weight


def _stack(match: Match) -> tuple[int, ...]:
    layers = _weight(match).layers
    return () if layers is None else (layers,)


# --------------------------------------------------------------------------- what the report says


def calibration_notes(
    plans: Sequence[SitePlan], matches: Sequence[Match], calibration: Calibration | None
) -> tuple[str, ...]:
    """What a reader should know of the calibration that a plan rests on, or of the one that it lacks."""
    doubts: dict[str, list[str]] = {}
    for plan, match in zip(plans, matches, strict=True):
        for doubt in _doubts(plan, match, calibration):
            doubts.setdefault(doubt, []).append(plan.site.id)
    notes = [f"{_names(sites)}: {doubt}" for doubt, sites in doubts.items()]
    if calibration is not None and matches and not any(_knows(calibration, match) for match in matches):
        seen = ", ".join(list(calibration.moments)[:3]) or "none"
        read = ", ".join(site_moment_key(match) for match in matches[:3])
        notes.append(
            f"the calibration knows none of these sites: it saw {seen}, and this program reads {read}; {ANOTHER}"
        )
    return tuple(notes)


def _doubts(plan: SitePlan, match: Match, calibration: Calibration | None) -> list[str]:
    predictor, found = plan.predictor, []
    moment = calibration.moment(site_moment_key(match)) if calibration else None
    if isinstance(predictor, Cascade | LowRank):
        low_rank = predictor.coarse if isinstance(predictor, Cascade) else predictor
        if moment is None:
            found.append(
                "not calibrated, so the factors are a plain SVD, which finds few of the right rows on real models: "
                "calibrate with hire.calibrate(…)"
            )
        elif doubt := moment.doubt(low_rank.rank if isinstance(low_rank, LowRank) else 1):
            found.append(f"{predictor} rests on {doubt}")
    if calibration is None or not isinstance(match, FfnMatch):
        return found
    activity = calibration.activity(site_activity_key(match))
    if isinstance(predictor, Exact) and activity is not None and activity.rows < FEW_ROWS:
        found.append(f"the room for active neurons rests on {_rows(activity.rows)} of calibration, which says little")
    if plan.decision.recall is not None:
        trials = calibration.trials_of(site_activity_key(match)).values()
        tried = min((trial.rows for trial in trials), default=0)
        if tried < FEW_ROWS // 4:
            found.append(f"recall and error were measured on {_rows(tried)}, which says little")
    return found


def _knows(calibration: Calibration, match: Match) -> bool:
    if calibration.moment(site_moment_key(match)) is not None:
        return True
    return isinstance(match, FfnMatch) and calibration.activity(site_activity_key(match)) is not None


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _names(sites: Sequence[str]) -> str:
    return sites[0] if len(sites) == 1 else f"{sites[0]} … {sites[-1]} ({len(sites)})"
