"""Plan sites whose rows are split over devices: a shard is planned as a site of its size. Pure, without IR.

What changes is only how many candidates a shard keeps: an even share of the rule's, times the slack that the closed
form asks for (:mod:`hire_compiler.sharding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hire_compiler.config import Config, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.passes.neurons import with_group
from hire_compiler.passes.plan import first_rule, plan_site, wanted_candidates
from hire_compiler.passes.settle_rule import settle_rule
from hire_compiler.passes.site_plan import SiteFacts, SitePlan, leave_dense
from hire_compiler.report import Site
from hire_compiler.sharding import SiteLayout, expected_recall, kept_per_shard


def plan_on_mesh(
    sites: Sequence[Site], facts: Sequence[SiteFacts], layouts: Sequence[SiteLayout | str], config: Config
) -> tuple[SitePlan, ...]:
    """Decide every site of a program on several devices.

    Args:
      layouts: how each site lies on the mesh, or why its shards cannot work by themselves.

    Raises:
      ConfigError: a rule asks a site for something impossible; names both.
    """
    return tuple(
        _without_layout(site, fact, layout, config)
        if isinstance(layout, str)
        else _plan_shard(site, fact, layout, config)
        for site, fact, layout in zip(sites, facts, layouts, strict=True)
    )


def _without_layout(site: Site, facts: SiteFacts, why: str, config: Config) -> SitePlan:
    planned = plan_site(site, replace(facts, devices=1), config)
    if planned.predictor is None:
        return planned
    reason = f"{why}; every device would need rows of others"
    return leave_dense(site, f"sharded over {facts.devices} devices: {reason}", sum(facts.weight_bytes))


def _plan_shard(site: Site, facts: SiteFacts, layout: SiteLayout, config: Config) -> SitePlan:
    shards, parts = layout.shards, layout.mesh.size(layout.batch)
    if facts.choice is not None and shards > 1:
        reason = f"the model's own {site.selection} compares the neurons of all {shards} shards"
        return leave_dense(site, reason, sum(facts.weight_bytes))
    shard = replace(site, width=site.width // shards, batch=site.batch // parts)
    spread = _spread(site, facts, shards, config)
    moved = layout.turned or spread
    copied = sum(facts.weight_bytes) * site.repeat if moved else facts.copied_bytes
    local_facts = replace(
        facts,
        weight_bytes=tuple(n // shards for n in facts.weight_bytes),
        copied_bytes=copied // shards,
        running_bytes=facts.running_bytes // shards,
        devices=1,
        shards=shards,
    )
    rules = tuple(
        _shard_rule(_decided(rule, site, shard, local_facts), site, facts, shards, config.shard_recall)
        if rule.selects(site.kind, site.id, site.path) and not rule.dense
        else rule
        for rule in config.rules
    )
    planned = plan_site(shard, local_facts, replace(config, rules=rules))
    if planned.predictor is None or shards == 1:
        return planned
    group = planned.group
    kept, total = planned.candidates // group, shard.width // group
    wanted = _wanted(site, config, group) or min(kept, total)
    recall = expected_recall(total * shards, wanted, shards, kept)
    reason = planned.decision.reason
    if spread:
        how = "by how often calibration saw them" if facts.counted else "in turn, as no calibration counted them"
        reason += f"; its rows are dealt to the shards {how}"
    if moved and planned.certify == "strict":
        reason += "; its rows are moved between devices, so logits closer than their rounding may change places"
    decision = replace(
        planned.decision,
        reason=reason,
        candidates=planned.candidates * shards,
        shards=shards,
        shard_recall=recall,
    )
    return replace(planned, decision=decision, axes=layout.rows, spread=spread)


def _spread(site: Site, facts: SiteFacts, shards: int, config: Config) -> bool:
    """Whether the rule of a site deals its rows to the shards anew."""
    rule = first_rule(site, config)
    if rule is None or not rule.spread or shards == 1:
        return False
    where = f"spread on {site.id} ({site.d}→{site.width})"
    if site.kind == "ffn" and not facts.counted:
        raise ConfigError(
            f"{where}: no calibration counted its neurons, so none is known to be hot: use hire.calibrate"
        )
    if site.kind == "head" and (not facts.winners_only or "sampling" in site.consumers):
        raise ConfigError(f"{where}: its logits are read in the order of the vocabulary, so rows cannot be dealt out")
    group = with_group(rule, site, facts).group or 1 if site.kind == "ffn" else 1
    if site.width % (group * shards * shards):
        rows = f"{site.width} rows" + (f" in groups of {group}" if group > 1 else "")
        raise ConfigError(f"{where}: {rows} cannot be dealt from {shards} shards to {shards} shards evenly")
    return True


def _decided(rule: Rule, site: Site, shard: Site, facts: SiteFacts) -> Rule:
    """The rule with its size of group (of a shard), and with the candidates that a recall asks of the whole site."""
    rule = with_group(rule, shard, facts)
    if rule.recall is None or rule.density is not None or rule.candidates is not None:
        return rule
    settled = settle_rule(rule, replace(site, batch=shard.batch), facts, f"recall on {site.id}")
    return rule if isinstance(settled, str) else settled.rule


def _shard_rule(rule: Rule, site: Site, facts: SiteFacts, shards: int, recall: float) -> Rule:
    """The rule of one shard: fewer candidates."""
    group = rule.group if rule.group is not None and site.kind == "ffn" else 1
    if site.width % (group * shards) or (rule.candidates is None and rule.density is None):
        return rule  # refused or settled below, in the sizes of a shard
    wanted = wanted_candidates(rule, site, group, site.id) // group
    kept = kept_per_shard(site.width // group, wanted, shards, recall)
    if facts.winners_only:
        kept = max(kept, min(facts.top_k, site.width // shards))
    return replace(rule, density=None, candidates=kept * group, group=group)


def _wanted(site: Site, config: Config, group: int) -> int:
    """How many groups the rule of a site wants; 0 if none speaks for it."""
    rule = first_rule(site, config)
    open_ = rule is not None and rule.candidates is None and rule.density is None
    return 0 if rule is None or open_ else wanted_candidates(rule, site, group, site.id) // group
