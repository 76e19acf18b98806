"""Settle a rule for one site: what it leaves open is decided from what calibration and the program say. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hire_compiler.config import Exact, Rule
from hire_compiler.passes.budgets import exact_budgets, why_no_budget
from hire_compiler.passes.neurons import with_group
from hire_compiler.passes.site_plan import SiteFacts
from hire_compiler.report import Site


@dataclass(frozen=True)
class Settled:
    """A rule of which nothing is open.

    Attributes:
      rule: with a size of group and a number of candidates.
      budgets: of ``Exact()``: smaller numbers of neurons that are tried first, ascending.
      notes: what decided, for the report.
    """

    rule: Rule
    budgets: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def settle_rule(rule: Rule, site: Site, facts: SiteFacts) -> Settled | str:
    """Decide the size of groups and the number of candidates; or why the site is better left dense."""
    rule = with_group(rule, site, facts)
    if isinstance(rule.predictor, Exact) and rule.candidates is None and rule.density is None:
        return _exact(rule, site, facts)
    return Settled(rule)


def _exact(rule: Rule, site: Site, facts: SiteFacts) -> Settled | str:
    group = rule.group or 1
    if site.width % group:
        return Settled(replace(rule, candidates=site.width))  # refused with the size of the group
    budgets = exact_budgets(rule, site, facts, group)
    if not budgets:
        return why_no_budget(site, facts, group)
    tried = ", then ".join(map(str, budgets))
    if facts.activity is not None and facts.activity.strongest is None:
        note = f"room for {tried} active neurons, by calibration on {facts.activity.rows} rows"
    elif facts.choice is not None:
        note = ""
    else:
        note = f"not calibrated, so there is room for {tried} active neurons, whichever holds first"
    return Settled(replace(rule, candidates=budgets[-1]), budgets[:-1], (note,) if note else ())
