"""Replay: carry out a kept plan again. Pure, without IR.

Nothing is decided anew, but nothing is believed either: sites have to be those of the plan, and what a rule cannot ask
of a site is refused as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hire_compiler.config.rules import Rule
from hire_compiler.errors import ConfigError
from hire_compiler.passes.plan.adapted import Adapted
from hire_compiler.passes.plan.decide import budget_bytes, failed_bytes, weigh
from hire_compiler.passes.plan.plan_shards import check_spread, facts_of_one_shard
from hire_compiler.passes.plan.predictor_bytes import learns
from hire_compiler.passes.plan.saved_plan import Plan, SiteRecord
from hire_compiler.passes.plan.site_plan import LeftDense, SiteFacts, SitePlan, leave_dense
from hire_compiler.reports.findings import THE_DEFAULT
from hire_compiler.reports.report import Site
from hire_compiler.runtime.target import target_for
from hire_compiler.sharding.layout import SiteLayout

Layout = SiteLayout | LeftDense | None


def record_of(plan: SitePlan, site: Site) -> SiteRecord:
    """What a plan says of a site (whole), to be kept."""
    if plan.predictor is None:
        return SiteRecord(site=site, decision=plan.decision)
    learned = {
        "moment": learns(plan.predictor) and plan.learned.moment is not None,
        "activity": plan.common > 0,
        "hotness": plan.spread and plan.learned.hotness(plan.group) is not None,
    }
    rule = Rule(
        kind=site.kind,  # type: ignore[arg-type]
        path=f"^{site.id}$",
        predictor=plan.predictor,
        candidates=plan.candidates,
        group=plan.group,
        score=plan.score,  # type: ignore[arg-type]
        common=plan.common,
        tail=plan.tail,  # type: ignore[arg-type]
        max_batch=plan.site.batch,
        certify=plan.certify,  # type: ignore[arg-type]
        logprobs=plan.logprobs,  # type: ignore[arg-type]
        spread=plan.spread,
    )
    return SiteRecord(
        site=site,
        decision=plan.decision,
        rule=rule,
        budgets=plan.budgets,
        axes=plan.axes,
        parts=site.batch // plan.site.batch,
        learned=tuple(name for name, needed in learned.items() if needed),
    )


def replay(
    plan: Plan, platform: str, sites: Sequence[Site], facts: Sequence[SiteFacts], layouts: Sequence[Layout]
) -> tuple[SitePlan, ...]:
    """The plan of every site, as it was kept.

    Args:
      layouts: on a mesh, how each site lies on it.

    Raises:
      ConfigError: the plan is for another platform, program, mesh or calibration; says what differs.
    """
    kept = {target_for(name).platform: records for name, records in plan.platforms.items()}
    records = kept.get(target_for(platform).platform)
    if records is None:
        raise ConfigError(
            f"the plan is for {', '.join(plan.platforms) or 'no platform'}, not for {platform}: plan again"
        )
    if len(records) != len(sites):
        raise ConfigError(f"the plan has {len(records)} sites and the program {len(sites)}: it is another program's")
    where = layouts or [None] * len(sites)
    return tuple(_replayed(*each) for each in zip(records, sites, facts, where, strict=True))


def _replayed(record: SiteRecord, site: Site, facts: SiteFacts, layout: Layout) -> SitePlan:
    named = f"the plan of {record.site.id}"
    for field in ("id", "kind", "d", "width", "batch", "dtype", "repeat"):
        planned, found = getattr(record.site, field), getattr(site, field)
        if planned != found:
            raise ConfigError(f"{named} does not fit: its {field} was {planned} and is {found} here; plan again")
    record = _adapted(record, facts.adapted)
    rule, dense_bytes = record.rule, sum(facts.weight_bytes)
    if rule is None:
        return leave_dense(site, record.decision.reason, dense_bytes)
    _check_mesh(record, layout, named)
    _check_learned(record, facts, named)
    own = facts if not isinstance(layout, SiteLayout) else facts_of_one_shard(facts, site, layout, moved=rule.spread)
    shard = replace(site, width=site.width // record.decision.shards, batch=site.batch // record.parts)
    if rule.spread:
        check_spread(rule, site, facts, record.decision.shards)
    own = own.asked(rule)
    candidates, common, sparse_bytes, added_bytes = weigh(rule, rule, shard, own, named)
    decision = record.decision
    if facts.halved or facts.adapted is not None:  # that is not of the plan
        decision = replace(
            decision,
            kept="bfloat16" if facts.halved else decision.kept,
            budgets=budget_bytes(rule, shard, own, candidates, sparse_bytes, sorted(record.budgets)),
            sparse_bytes=sparse_bytes,
            failed_bytes=failed_bytes(rule, shard, own, candidates, sparse_bytes),
            added_bytes=added_bytes,
        )
    if any(n % (rule.group or 1) or not 0 < n < candidates for n in record.budgets):
        raise ConfigError(f"{named} has budgets {list(record.budgets)} that are no part of {candidates} candidates")
    return SitePlan(
        shard,
        decision,
        rule.predictor,
        candidates,
        rule.group or 1,
        rule.tail,
        own.winners_only,
        rule.certify,
        logprobs=rule.logprobs,
        axes=record.axes,
        spread=rule.spread,
        common=common,
        budgets=tuple(sorted(record.budgets)),
        score=rule.score,
        learned=facts.learned,
    )


def _adapted(record: SiteRecord, found: Adapted | None) -> SiteRecord:
    """A record with what was found out about the default since it was made."""
    if found is None or record.rule is None:
        return record
    if not found.budgets:
        return replace(record, rule=None, decision=replace(record.decision, reason=found.said))
    *smaller, largest = found.budgets
    reason = f"{THE_DEFAULT}; {found.said}"
    decision = replace(record.decision, reason=reason, candidates=largest, adapted=found.said)
    return replace(record, rule=replace(record.rule, candidates=largest), budgets=tuple(smaller), decision=decision)


def _check_mesh(record: SiteRecord, layout: Layout, named: str) -> None:
    """Refuse a plan whose shards are others."""
    planned = (record.decision.shards, record.axes, record.parts)
    found: tuple[int, tuple[str, ...], int] = (1, (), 1)
    if isinstance(layout, LeftDense):
        raise ConfigError(f"{named} cannot be carried out: {layout.reason}")
    if layout is not None:
        axes = layout.rows if layout.shards > 1 else ()
        found = (layout.shards, axes, layout.mesh.size(layout.batch))
    if planned != found:
        raise ConfigError(
            f"{named} is for {planned[0]} shards (axes {list(planned[1])}, batch in {planned[2]} parts), and here are "
            f"{found[0]} ({list(found[1])}, {found[2]}): plan again"
        )


def _check_learned(record: SiteRecord, facts: SiteFacts, named: str) -> None:
    """Refuse to prepare without the calibration that the plan rests on."""
    known = {
        "moment": facts.learned.moment is not None,
        "activity": facts.activity is not None,
        "hotness": facts.counted,
    }
    missing = [name for name in record.learned if not known.get(name, False)]
    if missing:
        raise ConfigError(f"{named} is prepared with a calibration ({', '.join(missing)}): give it the same one again")
