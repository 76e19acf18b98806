"""Settle a rule for one site: what it leaves open is decided from what calibration and the program say. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from hire_compiler.config.predictors import Exact
from hire_compiler.config.rules import Rule
from hire_compiler.errors import ConfigError
from hire_compiler.learned.calibration import tried
from hire_compiler.learned.trial import COUNTS, TOPS, Trial, rows_needed
from hire_compiler.passes.plan.budgets import exact_budgets, why_no_budget
from hire_compiler.passes.plan.neurons import with_group
from hire_compiler.passes.plan.predictor_bytes import scanned_bytes
from hire_compiler.passes.plan.site_plan import LeftDense, SiteFacts
from hire_compiler.reports.report import Site


@dataclass(frozen=True)
class Resolved:
    """A rule of which nothing is open.

    Attributes:
      rule: with a size of group and a number of candidates.
      budgets: of ``Exact()``: smaller numbers of neurons that are tried first, ascending.
      notes: what decided, for the report.
      loss: recall and relative error of the output on calibration rows, if they were measured.
    """

    rule: Rule
    budgets: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    loss: tuple[float, float] | None = None


def resolve_rule(rule: Rule, site: Site, facts: SiteFacts, where: str) -> Resolved | LeftDense:
    """Decide the size of groups and the number of candidates; or why the site is better left dense.

    Raises:
      ConfigError: a recall is asked for that nobody measured; begins with ``where``.
    """
    rule = with_group(rule, site, facts)
    if isinstance(rule.predictor, Exact) and rule.candidates is None and rule.density is None:
        return _exact(rule, site, facts)
    if facts.neurons and rule.predictor is not None and rule.predictor.copies and not rule.certify:
        return _approximate(rule, site, facts, where)
    if facts.logits and rule.recall is not None:
        return _recalled_head(rule, rule.recall, site, facts, where)
    return Resolved(rule)


def _recalled_head(rule: Rule, recall: float, site: Site, facts: SiteFacts, where: str) -> Resolved | LeftDense:
    """The fewest candidates that hold the share of the winners that is asked for."""
    trial = facts.learned.head_trials.get(str(rule.predictor))
    if trial is None:
        raise ConfigError(
            f"{where}: recall={recall} has to be measured, and the calibration did not try {rule.predictor}: pass "
            "calibration=hire.calibrate(…, config=…) with this rule among the config's"
        )
    needed = rows_needed(recall)
    if trial.rows < needed:
        seen = f"its recall was measured on {trial.rows} rows, which cannot show {recall:g}"
        return LeftDense(f"{seen}: it takes {needed}" if needed < 10**6 else f"{seen}: certify proves a head's winners")
    top = facts.top_k if facts.winners_only else TOPS[-1]
    told = ceil(rule.density * site.width) if rule.density is not None else rule.candidates
    count = told or trial.enough(recall, top) or COUNTS[-1]
    found = trial.at(count, top) or 0.0
    said = f"{count} candidates of {rule.predictor} have a recall of {found:.2%} on calibration rows"
    if found < recall:
        return LeftDense(f"{said}, not the {recall:.2%} asked for")
    return Resolved(rule if told else replace(rule, candidates=count), notes=(said,))


def _exact(rule: Rule, site: Site, facts: SiteFacts) -> Resolved | LeftDense:
    group = rule.group or 1
    if site.width % group:
        return Resolved(replace(rule, candidates=site.width))  # refused with the size of the group
    budgets = exact_budgets(rule, site, facts, group)
    if not budgets:
        return LeftDense(why_no_budget(site, facts, group))
    tried = ", then ".join(map(str, budgets))
    if facts.adapted is not None:
        note = facts.adapted.said
    elif facts.activity is not None and facts.activity.strongest is None:
        note = f"room for {tried} active neurons, by calibration on {facts.activity.rows} rows"
    elif facts.experts:
        note = f"at random its router would choose {tried} of {site.width} experts a call"
    elif facts.choice is not None:
        note = ""
    else:
        note = f"not calibrated, so there is room for {tried} active neurons, whichever holds first"
    return Resolved(replace(rule, candidates=budgets[-1]), budgets[:-1], (note,) if note else ())


def _approximate(rule: Rule, site: Site, facts: SiteFacts, where: str) -> Resolved | LeftDense:
    trial = facts.learned.trials.get(tried(rule))
    if rule.recall is not None and trial is None:
        raise ConfigError(
            f"{where}: recall={rule.recall} has to be measured, and the calibration did not try {tried(rule)}: pass "
            "calibration=hire.calibrate(…, config=…) with this rule among the config's"
        )
    if rule.density is None and rule.candidates is None:
        assert trial is not None
        return _enough(rule, trial, site, facts, where)
    share = rule.density if rule.density is not None else (rule.candidates or 0) / site.width
    loss = None if trial is None else (1.0, 0.0) if share >= 1 else trial.at(share, site.batch)
    if rule.recall is not None and (loss is None or loss[0] < rule.recall):
        return LeftDense(f"{_short_of(rule, loss[0] if loss else None, site)} with {share:.1%} of the neurons")
    return _with_union(Resolved(rule, loss=loss), share, site, facts, where)


def _enough(rule: Rule, trial: Trial, site: Site, facts: SiteFacts, where: str) -> Resolved | LeftDense:
    """The smallest number of neurons that reaches the recall asked for."""
    group = rule.group or 1
    assert rule.recall is not None
    assert rule.predictor is not None
    enough = trial.enough(rule.recall, site.batch)
    if enough is None:
        return LeftDense(f"{_short_of(rule, trial.best(site.batch), site)} even with 3/4 of the neurons")
    neurons = min(ceil(ceil(enough * site.width) / group) * group, site.width)
    dense, ratio = sum(facts.weight_bytes), facts.costs.gather_ratio  # the plan itself decides how many there are
    if scanned_bytes(rule.predictor, site, where) + ratio * dense * neurons / site.width >= dense:
        return LeftDense(
            f"{rule.predictor} needs {neurons} of {site.width} neurons for a recall of {rule.recall:.2%}, and "
            f"gathered rows cost {ratio:g} times those of a stream: it would lose"
        )
    note = f"{neurons} neurons are enough for a recall of {rule.recall:.2%}"
    return Resolved(replace(rule, candidates=neurons), notes=(note,), loss=trial.at(enough, site.batch))


def _short_of(rule: Rule, reached: float | None, site: Site) -> str:
    found = "was not measured" if reached is None else f"is {reached:.2%}"
    rows = f" of {site.batch} rows together" if site.batch > 1 else ""
    return f"the recall of {rule.predictor}{rows} {found} on calibration rows, not the {rule.recall:.2%} asked for,"


def _with_union(settled: Resolved, share: float, site: Site, facts: SiteFacts, where: str) -> Resolved | LeftDense:
    """The rows of a batch share one choice; where they need different neurons, there is little to share."""
    rule, group = settled.rule, settled.rule.group or 1
    if facts.activity is None or site.batch == 1 or share >= 1 or site.width % group or rule.predictor is None:
        return settled
    union, dense = facts.activity.union(group, site.batch), sum(facts.weight_bytes)
    touched = f"{union:.0%} of all groups of {group}" if group > 1 else f"{union:.0%} of all neurons"
    rows = f"the {site.batch} rows of a call touch {touched} between them"
    if scanned_bytes(rule.predictor, site, where) + union * dense >= dense:
        return LeftDense(f"{rows} (by calibration): sharing one choice does not pay")
    if union <= share:
        return settled
    return replace(settled, notes=(*settled.notes, f"{rows}, more than the {share:.0%} computed"))
