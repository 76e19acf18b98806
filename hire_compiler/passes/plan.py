"""Plan: pure, without IR. Sites + rules + sizes -> one decision a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from hire_compiler.config import Cascade, Config, Exact, LowRank, Predictor, Quantized, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.passes.predictor_bytes import bound_bytes, read_bytes, stored_bytes
from hire_compiler.report import Decision, Site


@dataclass(frozen=True)
class Choice:
    """How the author of a block chooses neurons.

    Attributes:
      kept: neurons kept of each row by rank; 0 where a statistical cut decides.
      share: what is kept of normally distributed neurons.
      group: adjacent neurons kept together.
      by_gate: the gate alone (or the only product) decides.
      whole_rows: numbers enter that only a whole row can give, such as a mean.
    """

    kept: int
    share: float
    group: int
    by_gate: bool
    whole_rows: bool


@dataclass(frozen=True)
class SiteFacts:
    """What the plan must know of a site beyond its report line.

    Attributes:
      weight_bytes: bytes of each matrix of the site (one layer): up, [gate,] down; or the head.
      copied_bytes: bytes of the rows that have to be laid out anew (all layers).
      running_bytes: bytes of a block's matrices whose products run on for other readers.
      winners_only: a head of which only argmax and top_k are read.
      top_k: the most winners that any reader asks for.
      uncertifiable: why a head's winners cannot be proven, or ''.
      calibrated: a second moment of the site's input is at hand.
      exact_zeros: the activation makes neurons exactly zero.
      drops: a logit of −inf is −inf still where it is read.
      choice: how a block chooses its own neurons, if it does.
      devices: over how many devices the program's arguments are spread.
    """

    weight_bytes: tuple[int, ...]
    copied_bytes: int
    winners_only: bool = False
    top_k: int = 1
    uncertifiable: str = ""
    calibrated: bool = False
    devices: int = 1
    exact_zeros: bool = False
    drops: bool = True
    choice: Choice | None = None
    running_bytes: int = 0


@dataclass(frozen=True)
class SitePlan:
    """A decision with the objects that carry it out; ``predictor`` is None for a site left dense.

    On several devices it is the plan of one shard, ``axes`` the mesh axes that split the rows,
    ``spread`` whether the rows are dealt to them in turn.
    """

    site: Site
    decision: Decision
    predictor: Predictor | None = None
    candidates: int = 0
    group: int = 1
    tail: str = "predicted"
    winners_only: bool = False
    certify: bool | str = False
    axes: tuple[str, ...] = ()
    spread: bool = False

    @property
    def survivors(self) -> int:
        """Rows that the finer pass of a cascade scores; 0 without one."""
        return min(self.predictor.survivors, self.site.width) if isinstance(self.predictor, Cascade) else 0


def plan(sites: Sequence[Site], facts: Sequence[SiteFacts], config: Config) -> tuple[SitePlan, ...]:
    """Decide every site.

    Raises:
      ConfigError: a rule asks a site for something impossible; names both.
    """
    return tuple(plan_site(site, fact, config) for site, fact in zip(sites, facts, strict=True))


def check_rules(sites: Sequence[Site], config: Config) -> None:
    """Refuse rules whose path names no site of a program that has sites.

    A rule without a path is for any program: where its kind does not occur, that is only worth a note.

    Raises:
      ConfigError: names the rule and lists the sites there are.
    """
    for index, rule in enumerate(config.rules):
        if rule.path and sites and not any(rule.selects(site.kind, site.id, site.path) for site in sites):
            raise ConfigError(
                f"rule {index} (kind={rule.kind!r}, path={rule.path!r}) matched nothing; the sites are {_names(sites)}"
            )


def idle_rules(sites: Sequence[Site], config: Config) -> tuple[str, ...]:
    """A note for every rule that decided nothing."""
    taken = {_rule_number(site, config) for site in sites}
    notes = []
    for index, rule in enumerate(config.rules):
        if index in taken or not sites:
            continue
        alike = [site.id for site in sites if rule.selects(site.kind, site.id, site.path)]
        why = f"earlier rules took its sites ({', '.join(alike[:4])})" if alike else f"there is no {rule.kind} site"
        notes.append(f"rule {index} (kind={rule.kind!r}, path={rule.path!r}) matched nothing: {why}")
    return tuple(notes)


def _names(sites: Sequence[Site]) -> str:
    names = [f"{site.id} in {site.path!r}" for site in sites[:6]]
    return ", ".join(names + ["…"] * (len(sites) > 6))


def first_rule(site: Site, config: Config) -> Rule | None:
    """The rule that decides a site; None if none selects it."""
    number = _rule_number(site, config)
    return None if number is None else config.rules[number]


def _rule_number(site: Site, config: Config) -> int | None:
    numbered = enumerate(config.rules)
    return next((number for number, rule in numbered if rule.selects(site.kind, site.id, site.path)), None)


def plan_site(site: Site, facts: SiteFacts, config: Config) -> SitePlan:
    """Decide one site; see :func:`plan`."""
    dense_bytes = sum(facts.weight_bytes)
    chosen = first_rule(site, config)
    rule = chosen or (_exact_rule(site, facts) if config.exact else None)
    if rule is None:
        return leave_dense(site, _why_no_rule(site, facts), dense_bytes)
    named = "the exact default" if chosen is None else f"rule {_rule_number(site, config)}"
    if rule.dense:
        return leave_dense(site, f"{named} says so", dense_bytes)
    if site.batch > rule.max_batch:
        return leave_dense(
            site, f"its batch of {site.batch} rows is more than the max_batch {rule.max_batch} of {named}", dense_bytes
        )
    assert rule.predictor is not None
    where = f"{named} on {site.id} ({site.path or 'no scope'}, {site.d}→{site.width})"
    group = rule.group if site.kind == "ffn" else 1
    if site.width % group:
        raise ConfigError(
            f"{where}: group {group} does not divide the width {site.width}; use one of {_divisors(site.width)}"
        )
    candidates = wanted_candidates(rule, site, group, where)
    _check(rule, site, facts, group, candidates, where)
    sparse_bytes, added_bytes = _bytes(rule, site, facts, candidates, where)
    if sparse_bytes >= dense_bytes and candidates < site.width:
        runs_on = " (what stands before its activation is read elsewhere and runs on)" if facts.running_bytes else ""
        return leave_dense(
            site,
            f"{rule.predictor} with {candidates} of {site.width} rows would read {sparse_bytes} bytes a call, "
            f"dense reads {dense_bytes}: it would lose{runs_on}",
            dense_bytes,
        )
    reason = named
    if facts.running_bytes:
        reason += f"; {facts.running_bytes} bytes of its first products are read as before, for others who use them"
    if facts.devices > 1:
        reason += f"; sharded over {facts.devices} devices, where XLA's partitioner may gather scores and rows"
    if isinstance(rule.predictor, (LowRank, Cascade)) and not facts.calibrated:
        reason += "; not calibrated, so the factors are a plain SVD, which finds few of the right rows on real models"
    decision = Decision(
        site=site.id,
        action="rewritten",
        reason=reason,
        predictor=str(rule.predictor),
        candidates=candidates,
        group=group,
        tail="" if site.kind == "ffn" or facts.winners_only else rule.tail,
        dense_bytes=dense_bytes,
        sparse_bytes=sparse_bytes,
        added_bytes=added_bytes,
        exactness=_exactness(site, candidates, facts, rule),
    )
    return SitePlan(site, decision, rule.predictor, candidates, group, rule.tail, facts.winners_only, rule.certify)


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
    if rule.certify and site.kind == "head" and not facts.winners_only:
        raise ConfigError(
            f"{where}: certify={rule.certify!r} is impossible: logits escape ({', '.join(site.consumers)}), and only "
            "winners can be proven; leave certify out, or fold the sampler in with hire.with_sampler"
        )
    if rule.certify and facts.uncertifiable:
        raise ConfigError(f"{where}: certify={rule.certify!r} is impossible: {facts.uncertifiable}")
    if isinstance(rule.predictor, Exact) and not facts.exact_zeros and facts.choice is None:
        raise ConfigError(f"{where}: Exact() needs exact zeros, which {site.activation} does not give")


def _bytes(rule: Rule, site: Site, facts: SiteFacts, candidates: int, where: str) -> tuple[int, int]:
    """Bytes that a rewritten site reads in a call, and bytes that it keeps beside the weights."""
    assert rule.predictor is not None
    dense = sum(facts.weight_bytes)
    if isinstance(rule.predictor, Exact):
        gate = facts.weight_bytes[0]  # or the only up-projection: read whole
        return gate + (dense - gate) * candidates // site.width + facts.running_bytes, facts.copied_bytes
    stored = stored_bytes(rule.predictor, site, where)
    read = read_bytes(rule.predictor, stored, candidates, site, where)
    if rule.certify:
        read += bound_bytes(site, always=True)
        stored += bound_bytes(site)
    return read + dense * candidates // site.width + facts.running_bytes, stored * site.repeat + facts.copied_bytes


def leave_dense(site: Site, reason: str, dense_bytes: int) -> SitePlan:
    """The plan that changes nothing, and why."""
    decision = Decision(site=site.id, action="dense", reason=reason, dense_bytes=dense_bytes, sparse_bytes=dense_bytes)
    return SitePlan(site, decision)


def _exact_rule(site: Site, facts: SiteFacts) -> Rule | None:
    """The rule for a site that the user's rules leave out: only what never changes the answer."""
    if site.kind == "ffn":
        return _exact_choice_rule(site, facts)
    candidates = max(128, 4 * facts.top_k)
    if site.kind != "head" or not facts.winners_only or facts.uncertifiable or candidates * 4 > site.width:
        return None
    if facts.devices > 1:
        return None  # left to XLA's partitioner, the gathers may cost more than the product
    strict = set(site.consumers) <= {"argmax", "sampling", "max"}
    predictor = Quantized(bits=8)
    return Rule(kind="head", predictor=predictor, candidates=candidates, certify="strict" if strict else True)


def _exact_choice_rule(site: Site, facts: SiteFacts) -> Rule | None:
    """``Exact()`` for a block that chooses neurons itself, with room for more than it is likely to keep."""
    choice = facts.choice
    if choice is None or not choice.by_gate or facts.devices > 1:
        return None
    share = choice.kept / site.width if choice.kept else 1.25 * choice.share
    union = site.width * (1 - (1 - min(share, 1.0)) ** site.batch)  # of the rows of a batch, were they independent
    room = ceil((union + 4 * union**0.5 if site.batch > 1 or not choice.kept else union) / choice.group) * choice.group
    if 4 * room > 3 * site.width:
        return None
    return Rule(kind="ffn", predictor=Exact(), candidates=room, group=choice.group)


def _check_choice(choice: Choice, site: Site, rule: Rule, group: int, candidates: int, where: str) -> None:
    """Refuse what would not repeat the author's own choice of neurons."""
    exact = isinstance(rule.predictor, Exact)
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
    if candidates < choice.kept:
        raise ConfigError(
            f"{where}: {candidates} candidates cannot hold the {choice.kept} neurons that the model keeps"
        )


def _why_no_rule(site: Site, facts: SiteFacts) -> str:
    if site.kind == "head" and not facts.winners_only:
        read = ", ".join(site.consumers)
        return f"logits escape ({read}), so nothing about them can be proven, and no rule asks to approximate them"
    if site.kind == "head" and facts.devices > 1:
        return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
    if site.kind == "head" and facts.uncertifiable:
        return f"{facts.uncertifiable}, and no rule asks to approximate it"
    if site.kind == "ffn" and facts.choice is not None:
        if facts.devices > 1:
            return f"the program is sharded over {facts.devices} devices, and no rule asks to rewrite it there"
        if not facts.choice.by_gate:
            return f"its {site.selection} reads both products, so none can be skipped exactly, and no rule predicts it"
        return (
            f"the {site.batch} rows of a call keep too many of the {site.width} neurons between them for a skip to pay"
        )
    if site.kind == "ffn" and not facts.exact_zeros:
        return f"{site.activation} is not sparse (no neuron is exactly zero), and no rule asks to approximate it"
    return "no rule selects it, and nothing approximate is done unasked"


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


def _exactness(site: Site, candidates: int, facts: SiteFacts, rule: Rule) -> str:
    if isinstance(rule.predictor, Exact):
        return "exact: only zeros are skipped, and where more neurons are active the dense block runs"
    if rule.certify and site.kind == "ffn":
        return "certified: neurons proven zero are skipped, and where too few can be, the dense block runs"
    if rule.certify:
        order = "in the order of dense" if rule.certify == "strict" else "up to rounding"
        return f"certified: the winners are proven {order} at run time, else the dense product runs"
    if candidates == site.width:
        return "exact (full width)"
    if site.kind == "ffn" and facts.choice is not None:
        return "approximate: the model's own choice of neurons, made among the candidates"
    if site.kind == "ffn":
        return "approximate: neurons outside the selection count as zero"
    if facts.winners_only:
        return "approximate: the winners are exact unless the predictor missed one"
    return "approximate: candidates exact, the other logits are not"


def _divisors(n: int) -> list[int]:
    return [g for g in (1, 2, 4, 8, 16, 32, 64, 128) if n % g == 0]
