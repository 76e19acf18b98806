"""Whether a calibration is one of this program, and enough for what its plan does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hire_compiler.config.predictors import Exact
from hire_compiler.errors import ConfigError
from hire_compiler.learned.calibration import FEW_ROWS, Calibration
from hire_compiler.passes.plan.predictor_bytes import learns
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.patterns.site_match import SiteMatch, moment_key, stack_of

ANOTHER = "it is another model's, or of another version of this one: calibrate this program"


@dataclass(frozen=True)
class Fitted:
    """A calibration without what cannot be of this program, and why that was left out."""

    calibration: Calibration | None
    misfits: tuple[str, ...] = ()


def fit_calibration(calibration: Calibration | None, matches: Sequence[SiteMatch]) -> Fitted:
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
        key, block = moment_key(match), match.neuron_key
        misfit = (_moment_misfit, _activity_misfit, _winners_misfit)
        why = next(filter(None, (look(match, calibration) for look in misfit)), "")
        if not why:
            continue
        misfits.append(why)
        moments.pop(key, None)
        winners.pop(key, None)
        activities.pop(block, None)
        trials = {name: trial for name, trial in trials.items() if not block or not name.startswith(f"{block}|")}
    heads = {name: trial for name, trial in calibration.head_trials.items() if name.rpartition("|")[0] in moments}
    return Fitted(Calibration(moments, activities, trials, winners, calibration.skipped, heads), tuple(misfits))


def _activity_misfit(match: SiteMatch, calibration: Calibration) -> str:
    key, activity = match.neuron_key, calibration.activity(match.neuron_key)
    neurons, stack = match.weights[0].shape[0], stack_of(match)
    if activity is None or (activity.width == neurons and activity.counts.shape[:-1] == stack):
        return ""
    if activity.width != neurons:
        return f"the calibration saw {activity.width} neurons of {key}, and there are {neurons}: {ANOTHER}"
    return f"the calibration saw {list(activity.counts.shape[:-1])} layers of {key}, not {list(stack)}: {ANOTHER}"


def _winners_misfit(match: SiteMatch, calibration: Calibration) -> str:
    key, counts = match.winner_key, calibration.winners.get(match.winner_key)
    rows = match.weights[0].shape[0]
    if counts is None or counts.shape == (rows,):
        return ""
    counted = "×".join(map(str, counts.shape))
    return f"the calibration counted {counted} rows of {key}, and there are {rows}: {ANOTHER}"


def _moment_misfit(match: SiteMatch, calibration: Calibration) -> str:
    """Why the second moment of a site's input, if there is one, cannot be of this program; or ''."""
    key, d = moment_key(match), match.ranked.weight.shape[1]
    moment = calibration.moment(key)
    if moment is not None:
        if not np.isfinite(moment.total).all():
            raise ConfigError(f"the calibration's second moment of {key} holds NaN or Inf: calibrate again")
        expected = (*stack_of(match), d, d)
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


# --------------------------------------------------------------------------- what the report says


def calibration_notes(
    plans: Sequence[SitePlan], matches: Sequence[SiteMatch], calibration: Calibration | None
) -> tuple[str, ...]:
    """What a reader should know of the calibration that a plan rests on, or of the one that it lacks."""
    doubts: dict[str, list[str]] = {}
    for plan in plans:
        for doubt in _doubts(plan):
            doubts.setdefault(doubt, []).append(plan.site.id)
    notes = [f"{_names(sites)}: {doubt}" for doubt, sites in doubts.items()]
    if calibration is not None and matches and not any(_knows(calibration, match) for match in matches):
        seen = ", ".join(list(calibration.moments)[:3]) or "none"
        read = ", ".join(moment_key(match) for match in matches[:3])
        notes.append(
            f"the calibration knows none of these sites: it saw {seen}, and this program reads {read}; {ANOTHER}"
        )
    return tuple(notes)


def _doubts(plan: SitePlan) -> list[str]:
    predictor, known, found = plan.predictor, plan.learned, []
    if predictor is not None and learns(predictor):
        rank = max(options.get("rank", 1) for _, options in predictor.copies)
        if known.moment is None:
            why = f" ({known.skipped})" if known.skipped else ""
            found.append(
                f"not calibrated{why}, so the factors are a plain SVD, which finds few of the right rows on real "
                "models: calibrate with hire.calibrate(…)"
            )
        elif doubt := known.moment.doubt(rank):
            found.append(f"{predictor} rests on {doubt}")
    activity = known.activity
    if isinstance(predictor, Exact) and activity is not None and activity.rows < FEW_ROWS:
        found.append(f"the room for active neurons rests on {_rows(activity.rows)} of calibration, which says little")
    if plan.decision.recall is not None:
        tried = min((trial.rows for trial in known.trials.values()), default=0)
        if tried < FEW_ROWS // 4:
            found.append(f"recall and error were measured on {_rows(tried)}, which says little")
    return found


def _knows(calibration: Calibration, match: SiteMatch) -> bool:
    key = moment_key(match)
    seen = calibration.moment(key) is not None or calibration.activity(match.neuron_key) is not None
    return seen or key in calibration.skipped


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _names(sites: Sequence[str]) -> str:
    return sites[0] if len(sites) == 1 else f"{sites[0]} … {sites[-1]} ({len(sites)})"
