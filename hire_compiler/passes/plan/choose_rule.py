"""Which rule decides a site: the first of the user's that selects it, else what never changes the answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hire_compiler.config.rules import Config, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.passes.plan.exact_default import exact_rule, why_no_rule
from hire_compiler.passes.plan.site_plan import LeftDense, SiteFacts
from hire_compiler.reports.findings import THE_DEFAULT
from hire_compiler.reports.report import Site


@dataclass(frozen=True)
class Chosen:
    """The rule of a site.

    Attributes:
      name: ``rule 3``, or ``the exact default``.
      asked: the user's own; False for the default.
    """

    rule: Rule
    name: str
    asked: bool


def choose_rule(site: Site, facts: SiteFacts, config: Config) -> Chosen | LeftDense:
    """The rule that is to rewrite a site, or why none does."""
    number = _rule_number(site, config)
    rule = config.rules[number] if number is not None else exact_rule(site, facts) if config.exact else None
    if rule is None:
        return LeftDense(why_no_rule(site, facts))
    name = THE_DEFAULT if number is None else f"rule {number}"
    if rule.dense:
        return LeftDense(f"{name} says so")
    if rule.certify and facts.beside:
        return LeftDense(facts.beside)
    if site.batch > rule.max_batch:
        return LeftDense(f"its batch of {site.batch} rows is more than the max_batch {rule.max_batch} of {name}")
    return Chosen(rule, name, number is not None)


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
    names = [f"{site.id} {_where(site)}" for site in sites[:6]]
    return ", ".join(names + ["…"] * (len(sites) > 6))


def _where(site: Site) -> str:
    """Its scope; a plain JAX function has none, and then its weights say what it is."""
    return f"in {site.path!r}" if site.path else f"without a scope (it reads {', '.join(site.weights)})"


def first_rule(site: Site, config: Config) -> Rule | None:
    """The rule that decides a site; None if none selects it."""
    number = _rule_number(site, config)
    return None if number is None else config.rules[number]


def _rule_number(site: Site, config: Config) -> int | None:
    numbered = enumerate(config.rules)
    return next((number for number, rule in numbered if rule.selects(site.kind, site.id, site.path)), None)
