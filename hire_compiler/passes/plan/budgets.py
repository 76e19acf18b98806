"""How many active neurons ``Exact()`` leaves room for, where no rule says so. Pure.

The gate is read whole either way; a call whose active neurons fit in a budget reads so many rows of the other matrices,
any other call reads all of them. So a budget can only cost what looking costs, and several may be tried: the smallest
one that holds runs. Where a step has counted how many are active, that says it (``adapted.py``). With a calibration
they are quantiles of what was active; an author's own choice of neurons says how many it keeps; without either, shares
of the width up to where gathered rows stop paying.
"""

from __future__ import annotations

from math import ceil

from hire_compiler.config.rules import Rule
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.reports.report import Site

LADDER = (1 / 16, 1 / 8, 1 / 4)
MOST_EXPERTS = 3 / 4  # share of a layer's experts up to which reading them one by one beats reading all
QUANTILES = (0.99, 0.9, 0.5, 0.25)  # of all layers together; where not even a quarter of the calls can skip, none does


def exact_budgets(rule: Rule, site: Site, facts: SiteFacts, group: int) -> tuple[int, ...]:
    """Numbers of neurons, ascending, in whole groups; empty where none is likely to pay."""
    if rule.candidates is not None or rule.density is not None:
        raise ValueError("the rule says how many")
    if facts.adapted is not None:
        return facts.adapted.budgets
    if facts.experts:
        share = used_experts(site, facts) / site.width
        shares: tuple[float, ...] = (share,) if share <= MOST_EXPERTS else ()
    elif facts.activity is not None and facts.activity.strongest is None:
        shares = _measured(site, facts, group)
    elif facts.choice is not None:
        shares = _chosen(site, facts)
    else:
        shares = tuple(share for share in LADDER if share <= facts.costs.most_gathered)
    return tuple(sorted({min(ceil(share * site.width / group) * group, site.width) for share in shares}))


def _measured(site: Site, facts: SiteFacts, group: int) -> tuple[float, ...]:
    """What is nearly always enough, if that pays, else the highest quantile that does; and a smaller one.

    The layers of a stack have the same budgets, and each call of each layer takes the smallest that holds. A shard's
    share of the active neurons differs from that of the whole block as that of a random part of it would.
    """
    assert facts.activity is not None
    seen = [facts.activity.most(group, site.batch, 0.999)]
    seen += [facts.activity.pooled(group, site.batch, quantile) for quantile in QUANTILES]
    if facts.shards > 1:
        seen = [share + 4 * (share / site.width) ** 0.5 for share in seen]
    paying = [max(share, 1 / site.width) for share in seen if share <= facts.costs.most_gathered]
    if not paying:
        return ()
    return (paying[0], paying[-1]) if paying[-1] < 0.7 * paying[0] else (paying[0],)


def _chosen(site: Site, facts: SiteFacts) -> tuple[float, ...]:
    """Room for more than an author's choice is likely to keep of independent rows."""
    choice = facts.choice
    assert choice is not None
    share = choice.kept / site.width if choice.kept else 1.25 * choice.share
    union = site.width * (1 - (1 - min(share, 1.0)) ** site.batch)
    room = union + 4 * union**0.5 if site.batch > 1 or not choice.kept else union
    return (room / site.width,) if 4 * room <= 3 * site.width else ()


def used_experts(site: Site, facts: SiteFacts) -> float:
    """How many experts the rows of a batch use between them, were they chosen at random."""
    each = facts.routed or site.width / 4
    return site.width * (1 - (1 - min(each / site.width, 1.0)) ** site.batch)


def why_no_budget(site: Site, facts: SiteFacts, group: int) -> str:
    """Why none is likely to pay."""
    rows = f"the {site.batch} rows of a call" if site.batch > 1 else "a call"
    if facts.activity is not None and facts.activity.strongest is None:
        share = facts.activity.pooled(group, site.batch, QUANTILES[-1])
        return f"in calibration {rows} mostly touched {share:.0%} of its neurons or more: no skip would pay"
    if facts.experts:
        used = used_experts(site, facts)
        return f"{rows} use about {used:.1f} of its {site.width} experts between them: no skip would pay"
    return f"{rows} keeps too many of the {site.width} neurons for a skip to pay"


def worth_skipping(facts: SiteFacts) -> bool:
    """Whether what could be skipped is more than stays in the cache."""
    return sum(facts.weight_bytes[1:]) >= facts.costs.worth_bytes
