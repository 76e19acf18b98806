"""Decide: what a rule makes of a site, whole or one shard of it. Pure, without IR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from hire_compiler.config.predictors import Exact
from hire_compiler.config.rules import Config, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.passes.plan.choose_rule import Chosen, choose_rule
from hire_compiler.passes.plan.exact_default import UNPROVEN
from hire_compiler.passes.plan.neurons import common_neurons, no_common_path, union_densities
from hire_compiler.passes.plan.predictor_bytes import (
    bound_bytes,
    learns,
    limit_bytes,
    read_bytes,
    stored_bytes,
    unpacks,
)
from hire_compiler.passes.plan.resolve_rule import Resolved, resolve_rule
from hire_compiler.passes.plan.site_plan import Choice, LeftDense, SiteFacts, SitePlan, leave_dense
from hire_compiler.reports.report import Decision, Site


def decide_whole(site: Site, facts: SiteFacts, config: Config) -> SitePlan:
    """What a configuration makes of a site that is not split.

    Raises:
      ConfigError: a rule asks the site for something impossible; names both.
    """
    chosen = choose_rule(site, facts, config)
    if isinstance(chosen, LeftDense):
        return leave_dense(site, chosen.reason, sum(facts.weight_bytes))
    return decide(site, facts, chosen)


def decide(site: Site, facts: SiteFacts, chosen: Chosen) -> SitePlan:
    """What a rule makes of a site, whole or one shard of it.

    Raises:
      ConfigError: the rule asks the site for something impossible; names both.
    """
    dense_bytes, explicit = sum(facts.weight_bytes), chosen.rule
    where = f"{chosen.name} on {site.id} ({site.path or 'no scope'}, {site.d}→{site.width})"
    facts = facts.asked(explicit)
    settled = resolve_rule(explicit, site, facts, where)
    if isinstance(settled, LeftDense):
        return leave_dense(site, settled.reason, dense_bytes)
    if settled.rule.certify and facts.compared:  # the author's own operations run where a proof fails
        settled = replace(settled, rule=replace(settled.rule, certify="strict"))
    rule = settled.rule
    candidates, common, sparse_bytes, added_bytes = weigh(rule, explicit, site, facts, where)
    loses = _why_it_loses(rule, site, facts, candidates, sparse_bytes)
    if loses and candidates < site.width:
        return leave_dense(site, loses, dense_bytes)
    decision = Decision(
        site=site.id,
        action="rewritten",
        reason="; ".join([chosen.name, *settled.notes, *_remarks(rule, facts, common)]),
        predictor=str(rule.predictor),
        candidates=candidates,
        budgets=budget_bytes(rule, site, facts, candidates, sparse_bytes, settled.budgets),
        adapted="" if facts.adapted is None or chosen.asked else facts.adapted.said,
        group=rule.group or 1,
        common=common,
        recall=settled.loss[0] if settled.loss else None,
        error=settled.loss[1] if settled.loss else None,
        union=union_densities(site, facts),
        tail=rule.tail if facts.logits and not (facts.winners_only or (facts.compared and rule.certify)) else "",
        dense_bytes=dense_bytes,
        sparse_bytes=sparse_bytes,
        failed_bytes=failed_bytes(rule, site, facts, candidates, sparse_bytes),
        added_bytes=added_bytes,
        kept="bfloat16" if facts.halved else "",
        exactness=_exactness(site, candidates, facts, rule),
    )
    return _carried_out(decision, settled, site, facts)


def weigh(rule: Rule, asked: Rule, site: Site, facts: SiteFacts, where: str) -> tuple[int, int, int, int]:
    """How many candidates and common neurons a site has, and how many bytes it reads in a call and adds.

    Args:
      rule: with nothing left open.
      asked: as somebody asked for it.

    Raises:
      ConfigError: it asks the site for something impossible; begins with ``where``.
    """
    group = rule.group or 1
    if site.width % group:
        raise ConfigError(
            f"{where}: group {group} does not divide the width {site.width}; use one of {_divisors(site.width)}"
        )
    candidates = wanted_candidates(rule, site, group, where)
    _check(asked, site, facts, group, candidates, where)
    common = common_neurons(rule, site, facts, group, candidates, where)
    return candidates, common, *_bytes(rule, site, facts, candidates, common, where)


def _carried_out(decision: Decision, settled: Resolved, site: Site, facts: SiteFacts) -> SitePlan:
    """A decision with what carries it out."""
    rule = settled.rule
    return SitePlan(
        site,
        decision,
        rule.predictor,
        decision.candidates,
        decision.group,
        rule.tail,
        facts.winners_only,
        rule.certify,
        logprobs=rule.logprobs,
        common=decision.common,
        budgets=settled.budgets,
        score=rule.score,
        learned=facts.learned,
    )


def _why_it_loses(rule: Rule, site: Site, facts: SiteFacts, candidates: int, sparse_bytes: int) -> str:
    """Why the rewritten site would take longer than the dense one; or ''."""
    dense_bytes = sum(facts.weight_bytes)
    if sparse_bytes >= dense_bytes:
        runs_on = (
            " (other code also reads its pre-activation, so that product still runs)" if facts.running_bytes else ""
        )
        return (
            f"{rule.predictor} with {candidates} of {site.width} rows would read {sparse_bytes} bytes a call, "
            f"dense reads {dense_bytes}: it would lose{runs_on}"
        )
    most = facts.costs.unpacked_rows
    if most is not None and site.batch > most and facts.logits and unpacks(rule.predictor):
        return (
            f"{rule.predictor} is unpacked again for every row of a batch on this platform: with {site.batch} rows, "
            f"more than {most}, it would take longer than the dense product"
        )
    return ""


def _remarks(rule: Rule, facts: SiteFacts, common: int) -> list[str]:
    """What a reader of the report should know beside the rule that decided."""
    remarks = []
    if facts.running_bytes:
        remarks.append(f"{facts.running_bytes} bytes of its first products are read as before, for others who use them")
    if facts.devices > 1:
        remarks.append(f"sharded over {facts.devices} devices, where XLA's partitioner may gather scores and rows")
    if learns(rule.predictor) and facts.learned.moment is None:
        remarks.append(
            "not calibrated, so the factors are a plain SVD, which finds few of the right rows on real models"
        )
    if facts.logits and rule.certify == "strict" and facts.copied_bytes and not facts.by_columns:
        remarks.append("its weight stays beside the copy by rows, because the author's own product settles doubts")
    if facts.shards > 1 and facts.activity is not None and rule.common is None and not common:
        remarks.append(f"no common path, {no_common_path(rule, facts)}")
    return remarks


def _check(rule: Rule, site: Site, facts: SiteFacts, group: int, candidates: int, where: str) -> None:
    """Refuse what a rule cannot ask of a site."""
    if facts.choice is not None:
        _check_choice(facts.choice, site, rule, group, candidates, where)
    if facts.winners_only and candidates < facts.top_k:
        raise ConfigError(f"{where}: {candidates} candidates cannot hold the top {facts.top_k} that the program reads")
    if rule.tail == "dropped" and not facts.winners_only and not facts.drops and candidates < site.width:
        raise ConfigError(
            f"{where}: tail='dropped' is lost behind what the program does with the logits (a softcap?): "
            "−inf does not stay −inf; use tail='predicted'"
        )
    if rule.certify and facts.logits and not (facts.winners_only or facts.compared):
        why = facts.blocked or f"logits escape ({', '.join(site.consumers)})"
        raise ConfigError(
            f"{where}: certify={rule.certify!r} is impossible: {why}, and only "
            "winners can be proven; leave certify out, or fold the sampler in with hire.with_sampler"
        )
    if rule.certify and facts.uncertifiable:
        raise ConfigError(f"{where}: certify={rule.certify!r} is impossible: {facts.uncertifiable}")
    if isinstance(rule.predictor, Exact) and facts.unproven_zeros and facts.choice is None:
        raise ConfigError(f"{where}: Exact() is impossible: {UNPROVEN}; use a predictor, or leave the site dense")
    zeros = facts.exact_zeros or facts.seldom_zeros or facts.choice is not None
    if isinstance(rule.predictor, Exact) and not zeros:
        raise ConfigError(f"{where}: Exact() needs exact zeros, which {site.activation} does not give")


def _bytes(rule: Rule, site: Site, facts: SiteFacts, candidates: int, common: int, where: str) -> tuple[int, int]:
    """Bytes that a rewritten site reads in a call, and bytes that it keeps beside the weights."""
    assert rule.predictor is not None
    facts = _as_kept(facts, site)
    dense = sum(facts.weight_bytes)
    if facts.experts:
        return dense * candidates // site.width, facts.copied_bytes
    if isinstance(rule.predictor, Exact):
        gate = facts.weight_bytes[0]  # or the only up-projection: read whole
        read = gate + (dense - gate) * candidates // site.width + facts.running_bytes
        return read + limit_bytes(site, facts), facts.copied_bytes + limit_bytes(site, facts) * site.repeat
    predicted = replace(site, width=site.width - common)
    stored = stored_bytes(rule.predictor, predicted, where) if predicted.width else 0
    read = read_bytes(rule.predictor, candidates, predicted, where) if predicted.width else 0
    if rule.certify:
        read += bound_bytes(site, facts, always=True) + limit_bytes(site, facts)
        stored += bound_bytes(site, facts) + limit_bytes(site, facts)
    copied = dense * site.repeat if common else facts.copied_bytes  # their rows stand in another order
    if rule.certify == "strict" and facts.by_columns:
        copied = 0  # read where it lies: the author's own product needs it there anyway
    return read + dense * candidates // site.width + facts.running_bytes, stored * site.repeat + copied


def _as_kept(facts: SiteFacts, site: Site) -> SiteFacts:
    """The facts, with the sizes of the matrices as the step reads them."""
    if not facts.halved:
        return facts
    halves = tuple(wide // 2 for wide in facts.weight_bytes)
    return replace(facts, weight_bytes=halves, copied_bytes=sum(halves) * site.repeat)


def failed_bytes(rule: Rule, site: Site, facts: SiteFacts, candidates: int, sparse_bytes: int) -> int:
    """Bytes that a call reads whose proof or budget fails: of a head, all rows as well; else those that are left."""
    if facts.logits:
        return sparse_bytes + sum(_as_kept(facts, site).weight_bytes)
    skipped = _skippable(rule, site, facts)
    return sparse_bytes + skipped - skipped * candidates // site.width


def budget_bytes(
    rule: Rule, site: Site, facts: SiteFacts, candidates: int, sparse_bytes: int, budgets: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Smaller budgets of an exact skip, each with the bytes of a call in which it holds."""
    skipped = _skippable(rule, site, facts)
    return tuple((n, sparse_bytes - skipped * candidates // site.width + skipped * n // site.width) for n in budgets)


def _skippable(rule: Rule, site: Site, facts: SiteFacts) -> int:
    """Bytes of the rows that are read only where they are chosen."""
    own = _as_kept(facts, site).weight_bytes
    return sum(own[1:] if isinstance(rule.predictor, Exact) and facts.neurons else own)


def _check_choice(choice: Choice, site: Site, rule: Rule, group: int, candidates: int, where: str) -> None:
    """Refuse what would not repeat the author's own choice of neurons."""
    exact = isinstance(rule.predictor, Exact)
    told = rule.candidates is not None or rule.density is not None
    if group % choice.group:
        raise ConfigError(
            f"{where}: the model keeps groups of {choice.group} neurons, group {group} would cut them; "
            f"use group={choice.group} or a multiple"
        )
    if exact and not choice.by_gate:
        raise ConfigError(
            f"{where}: Exact() is impossible, the model's {site.selection} reads both products; use a predictor, or "
            "let the model choose by the gate alone"
        )
    if not exact and choice.whole_rows:
        raise ConfigError(
            f"{where}: {site.selection} needs numbers of all neurons, which no predictor gives; use Exact()"
        )
    if told and candidates < choice.kept:
        raise ConfigError(
            f"{where}: {candidates} candidates cannot hold the {choice.kept} neurons that the model keeps"
        )


def wanted_candidates(rule: Rule, site: Site, group: int, where: str) -> int:
    """How many rows a rule wants of a site, in whole groups.

    Raises:
      ConfigError: more than there are; begins with ``where``.
    """
    if rule.candidates is not None:
        if rule.candidates > site.width:
            raise ConfigError(f"{where}: candidates {rule.candidates} are more than the {site.width} rows there are")
        wanted = rule.candidates
    else:
        assert rule.density is not None
        wanted = ceil(rule.density * site.width)
    return min(ceil(wanted / group) * group, site.width)


def _bounds(rule: Rule, facts: SiteFacts) -> bool:
    """Whether numbers that need the whole vocabulary come out between bounds."""
    return facts.bounded is not None and rule.logprobs == "bounded"


def _exactness(site: Site, candidates: int, facts: SiteFacts, rule: Rule) -> str:
    if facts.experts:
        return "exact: the experts that no row of a call uses are skipped, as many as there are"
    if isinstance(rule.predictor, Exact):
        return "exact: only zeros are skipped, and where more neurons are active the dense block runs"
    if rule.certify and facts.neurons:
        return "certified: neurons proven zero are skipped, and where too few can be, the dense block runs"
    if rule.certify:
        strict = rule.certify == "strict"
        order = "in the order of dense" if strict else "up to rounding"
        kernel = " (by the kernel that XLA finds fastest there)" if strict and facts.reordered else ""
        numbers = "; numbers of its logits lie between proven bounds, off by τ at most" if _bounds(rule, facts) else ""
        return f"certified: the winners are proven {order} at run time, else the dense product runs{kernel}{numbers}"
    if candidates == site.width:
        return "exact (full width)"
    if facts.neurons and facts.choice is not None:
        return "approximate: the model's own choice of neurons, made among the candidates"
    if facts.neurons:
        return "approximate: neurons outside the selection count as zero"
    if facts.winners_only:
        return "approximate: the result is exact if the predictor's candidates include the true winners"
    return "approximate: candidates exact, the other logits are not"


def _divisors(n: int) -> list[int]:
    return [g for g in (1, 2, 4, 8, 16, 32, 64, 128) if n % g == 0]
