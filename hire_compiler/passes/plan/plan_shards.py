"""Plan sites whose rows are split over devices: a shard is planned as a site of its size. Pure, without IR.

What changes is only how many candidates a shard keeps: an even share of the rule's, times the slack that the closed
form asks for (:mod:`hire_compiler.sharding.layout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hire_compiler.config.rules import Config, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.passes.plan.choose_rule import Chosen, choose_rule
from hire_compiler.passes.plan.decide import decide, wanted_candidates
from hire_compiler.passes.plan.neurons import with_group
from hire_compiler.passes.plan.resolve_rule import resolve_rule
from hire_compiler.passes.plan.site_plan import LeftDense, SiteFacts, SitePlan, leave_dense
from hire_compiler.reports.report import Site
from hire_compiler.sharding.layout import SiteLayout
from hire_compiler.sharding.recall import expected_recall, kept_per_shard


def plan_on_mesh(
    sites: Sequence[Site], facts: Sequence[SiteFacts], layouts: Sequence[SiteLayout | LeftDense], config: Config
) -> tuple[SitePlan, ...]:
    """Decide every site of a program on several devices.

    Args:
      layouts: how each site lies on the mesh, or why its shards cannot work by themselves.

    Raises:
      ConfigError: a rule asks a site for something impossible; names both.
    """
    return tuple(
        _without_layout(site, fact, layout.reason, config)
        if isinstance(layout, LeftDense)
        else _plan_shard(site, fact, layout, config)
        for site, fact, layout in zip(sites, facts, layouts, strict=True)
    )


def _without_layout(site: Site, facts: SiteFacts, why: str, config: Config) -> SitePlan:
    """A site stays dense in any case; where it would have been on one device, for the same reason."""
    alone, dense_bytes = replace(facts, devices=1), sum(facts.weight_bytes)
    chosen = choose_rule(site, alone, config)
    if isinstance(chosen, LeftDense):
        return leave_dense(site, chosen.reason, dense_bytes)
    planned = decide(site, alone, chosen)
    if planned.predictor is None:
        return planned
    return leave_dense(site, f"sharded over {facts.devices} devices: {why}", dense_bytes)


def _plan_shard(site: Site, facts: SiteFacts, layout: SiteLayout, config: Config) -> SitePlan:
    shards = layout.shards
    if facts.choice is not None and shards > 1:
        reason = f"the model's own {site.selection} compares the neurons of all {shards} shards"
        return leave_dense(site, reason, sum(facts.weight_bytes))
    shard = replace(site, width=site.width // shards, batch=site.batch // layout.mesh.size(layout.batch))
    own = facts_of_one_shard(facts, site, layout, moved=layout.turned)
    chosen = choose_rule(shard, own, config)
    if isinstance(chosen, LeftDense):
        return leave_dense(shard, chosen.reason, sum(own.weight_bytes))
    if spread := chosen.rule.spread and shards > 1:
        check_spread(chosen.rule, site, facts, shards)
        own = facts_of_one_shard(facts, site, layout, moved=True)
    shrunk = _shrink(chosen, site, shard, own, shards, config.shard_recall)
    planned = decide(shard, own, shrunk)
    if planned.predictor is None or shards == 1:
        return planned
    return _of_all_shards(planned, chosen, site, own, layout, spread)


def facts_of_one_shard(facts: SiteFacts, site: Site, layout: SiteLayout, *, moved: bool) -> SiteFacts:
    """The facts of a shard; ``moved``: rows change their device when they are prepared, which copies them."""
    shards = layout.shards
    copied = sum(facts.weight_bytes) * site.repeat if moved else facts.copied_bytes
    return replace(
        facts,
        weight_bytes=tuple(n // shards for n in facts.weight_bytes),
        copied_bytes=copied // shards,
        running_bytes=facts.running_bytes // shards,
        devices=1,
        shards=shards,
    )


def check_spread(rule: Rule, site: Site, facts: SiteFacts, shards: int) -> None:
    """Refuse to deal out rows that cannot be."""
    where = f"spread on {site.id} ({site.d}→{site.width})"
    if facts.neurons and not facts.counted:
        raise ConfigError(
            f"{where}: no calibration counted its neurons, so none is known to be hot: use hire.calibrate"
        )
    if facts.logits and (not facts.winners_only or facts.aligned):
        raise ConfigError(f"{where}: its logits are read in the order of the vocabulary, so rows cannot be dealt out")
    group = with_group(rule, site, facts).group or 1 if facts.neurons else 1
    if site.width % (group * shards * shards):
        rows = f"{site.width} rows" + (f" in groups of {group}" if group > 1 else "")
        raise ConfigError(f"{where}: {rows} cannot be dealt from {shards} shards to {shards} shards evenly")


def _shrink(chosen: Chosen, site: Site, shard: Site, facts: SiteFacts, shards: int, recall: float) -> Chosen:
    """The rule of one shard: the size of group of a shard, and fewer candidates. What never asked stays as it is.

    Args:
      facts: of one shard.
      recall: expected share of the rule's candidates among those of all shards.
    """
    if not chosen.asked:
        return chosen
    rule = with_group(chosen.rule, shard, facts)
    if rule.recall is not None and rule.density is None and rule.candidates is None:
        settled = resolve_rule(rule, replace(site, batch=shard.batch), facts, f"recall on {site.id}")
        rule = rule if isinstance(settled, LeftDense) else settled.rule
    group = rule.group if rule.group is not None and facts.neurons else 1
    if site.width % (group * shards) or (rule.candidates is None and rule.density is None):
        return replace(chosen, rule=rule)  # refused or settled later, in the sizes of a shard
    wanted = wanted_candidates(rule, site, group, site.id) // group
    kept = kept_per_shard(site.width // group, wanted, shards, recall)
    if facts.winners_only:
        kept = max(kept, min(facts.top_k, site.width // shards))
    return replace(chosen, rule=replace(rule, density=None, candidates=kept * group, group=group))


def _of_all_shards(
    planned: SitePlan, chosen: Chosen, site: Site, facts: SiteFacts, layout: SiteLayout, spread: bool
) -> SitePlan:
    """The plan of a shard, told as that of all."""
    shards, group, rule = layout.shards, planned.group, chosen.rule
    kept, total = planned.candidates // group, planned.site.width // group
    told = chosen.asked and (rule.candidates is not None or rule.density is not None)
    wanted = wanted_candidates(rule, site, group, site.id) // group if told else min(kept, total)
    reason = planned.decision.reason
    if spread:
        how = "by how often calibration saw them" if facts.counted else "in turn, as no calibration counted them"
        reason += f"; its rows are dealt to the shards {how}"
    if (layout.turned or spread) and planned.certify == "strict":
        reason += "; its rows are moved between devices, so logits closer than their rounding may change places"
    decision = replace(
        planned.decision,
        reason=reason,
        candidates=planned.candidates * shards,
        budgets=tuple((neurons * shards, nbytes) for neurons, nbytes in planned.decision.budgets),
        shards=shards,
        shard_recall=expected_recall(total * shards, wanted, shards, kept),
    )
    return replace(planned, decision=decision, axes=layout.rows, spread=spread)
