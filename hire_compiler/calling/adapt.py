"""A default that does not pay is changed: what it cannot know beforehand, a step counts, and is planned anew once.

Whether neurons are sparse, or winners stand out from the rest, no graph tells. The step counts how often its proofs
hold and how many neurons are active, so after some calls it is known: a block gets other budgets or is left dense, a
head is left dense. This is the decision; :class:`hire_compiler.calling.transformed.HireFunction`
carries it out, in the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from hire_compiler.passes.plan.adapted import Adapted, BlockCounts, better_budgets, written_bytes
from hire_compiler.reports.findings import THE_DEFAULT, Certificate, Decision, Findings, Site
from hire_compiler.runtime.costs import Costs

FIRST_CALLS = 64  # that are counted before anything is changed
_LOOKING = 0.08  # share of a dense layer of experts that it costs to look for idle ones in vain


def watches(found: Findings) -> bool:
    """Whether there is anything that may be changed: rules are obeyed, whatever they cost."""
    return any(_is_default(decision) for decision in found.decisions)


def adapted(
    found: Findings, calls: int, held: Mapping[str, float], blocks: Mapping[str, BlockCounts], costs: Costs
) -> dict[str, Adapted]:
    """By site that cost more than it saved so far, or than another budget would have, what to do from now on.

    Args:
      found: decisions and certificates.
      calls: that were counted.
      held: by site the share of its runs in which the proof of every row held.
      blocks: what exact blocks counted, by site.
    """
    proofs = {proof.site: proof for proof in found.certificates if proof.rows}
    sites = {site.id: site for site in found.sites}
    changed = {}
    for decision in found.decisions:
        site = decision.site
        if not _is_default(decision) or site not in proofs:
            continue
        if site in blocks:
            budgets = better_budgets(sites[site], decision, blocks[site], costs)
            if budgets is not None:
                changed[site] = Adapted(_budgets_said(decision, sites[site], blocks[site], calls, budgets), budgets)
        elif held[site] < least_share(sites[site], decision, costs):
            changed[site] = Adapted(_said(proofs[site]))
    return changed


def least_share(site: Site, decision: Decision, costs: Costs) -> float:
    """The share of runs whose proofs have to hold for a site to cost no more than dense.

    Where a proof fails, a head has read what it reads to choose, and others have looked, in vain.
    """
    dense = written_bytes(site, decision, costs)
    saved = max(dense - decision.sparse_bytes, 1)
    lost = decision.sparse_bytes if site.kind == "head" else _LOOKING * dense
    return lost / (lost + saved)


def type_of(value: Any) -> jax.ShapeDtypeStruct:
    """The type of an array as a compiled program is looked up by it."""
    aval = jax.typeof(value)
    placed = getattr(value, "sharding", None) if getattr(value, "committed", False) else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=placed, weak_type=aval.weak_type)


def _is_default(decision: Decision) -> bool:
    return decision.action == "rewritten" and decision.reason.startswith(THE_DEFAULT)


def _said(proof: Certificate) -> str:
    return (
        f"{THE_DEFAULT} was tried: its proof held for {proof.proven} of {proof.rows} rows, which cost more than it "
        "saved; dense since"
    )


def _budgets_said(decision: Decision, site: Site, counts: BlockCounts, calls: int, budgets: tuple[int, ...]) -> str:
    """What held of the largest budget, and what there is room for instead."""
    runs = sum(counts.ran)
    held = runs - counts.ran[-1]
    word = "calls" if runs == calls else "runs"  # in a loop
    tried = f"a budget of {_share(decision.candidates, site)} held for {held} of {runs} {word}"
    if not budgets:
        return f"{THE_DEFAULT} was tried: {tried}, which cost more than it saved; dense since"
    return f"{tried}; {' and '.join(_share(budget, site) for budget in budgets)} since"


def _share(neurons: int, site: Site) -> str:
    return f"{neurons / site.width:.0%}"
