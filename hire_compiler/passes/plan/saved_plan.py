"""A plan as something to keep: what was decided for every site of a program, in enough detail to be done again.

.. code-block:: python

    step.plan(params, token, cache).save("decode.plan.json")
    again = hire.transform(decode_step, hire.Config(plan=hire.Plan.load("decode.plan.json")))

``plan.json`` of an artifact has the same form. What a calibration decided (numbers of candidates, budgets, groups) is
in it; what is prepared with a calibration (the factors of ``LowRank``, a common path) needs that calibration again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hire_compiler.config.read_toml import rule_from, rule_table
from hire_compiler.config.rules import Config, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.reports.report import Decision, Site


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """What was decided for one site.

    Attributes:
      site: whole, as the report has it.
      decision: as the report has it.
      rule: with nothing left open, of one shard; None for a site left dense.
      budgets: smaller numbers of neurons that an exact skip tries first, ascending.
      axes: mesh axes that split its rows.
      parts: into how many parts its batch is split.
      learned: what of a calibration is prepared with it: ``moment``, ``activity`` or ``hotness``.
    """

    site: Site
    decision: Decision
    rule: Rule | None = None
    budgets: tuple[int, ...] = ()
    axes: tuple[str, ...] = ()
    parts: int = 1
    learned: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The decision, and under ``again`` what it takes to carry it out."""
        own = {name: getattr(self, name) for name in ("budgets", "axes", "parts", "learned")}
        again = {"site": asdict(self.site), "rule": self.rule and rule_table(self.rule), **own}
        return {**asdict(self.decision), "again": again}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> SiteRecord:
        """Undo :meth:`to_dict`; JSON has lists for tuples."""
        again = dict(entry["again"])
        rule = again.pop("rule")
        site = again.pop("site")
        decision = {name: value for name, value in entry.items() if name != "again"}
        return cls(
            site=Site(**{name: _tuples(value) for name, value in site.items()}),
            decision=Decision(**{name: _tuples(value) for name, value in decision.items()}),
            rule=None if rule is None else rule_from(rule, f"the plan of {site['id']}"),
            **{name: _tuples(value) for name, value in again.items()},
        )


@dataclass(frozen=True)
class Plan:
    """Plans of one program, by platform; ``hire.Config(plan=…)`` carries one out again.

    Attributes:
      platforms: from ``"cpu"``, ``"cuda"``, ``"tpu"`` … to a record for every site, in order.
    """

    platforms: Mapping[str, tuple[SiteRecord, ...]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        Path(path).write_text(self.to_json(), "utf-8")

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps({name: [r.to_dict() for r in records] for name, records in self.platforms.items()}, indent=1)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read what :meth:`save` wrote, or the ``plan.json`` of an artifact.

        Raises:
          ConfigError: it is no plan, or one of a version that could not be carried out again.
        """
        try:
            return cls.from_json(Path(path).read_text("utf-8"))
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Undo :meth:`to_json`.

        Raises:
          ConfigError: it is no plan, or one of a version that could not be carried out again.
        """
        try:
            platforms = json.loads(text)
            return cls({name: _records(entries) for name, entries in platforms.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"no plan that can be carried out again: {error!r}; make one with step.plan(…)") from None

    def __str__(self) -> str:
        lines = [
            f"{name}: {record.site.id} [{record.site.path}] {record.site.d}→{record.site.width}: {_done(record)}"
            for name, records in self.platforms.items()
            for record in records
        ]
        return "\n".join(lines) or "a plan of no sites"


def _done(record: SiteRecord) -> str:
    if record.rule is None:
        return f"dense, {record.decision.reason}"
    told = {field.name: getattr(record.rule, field.name) for field in fields(Rule)}
    shown = [f"{name}={told[name]}" for name in ("candidates", "group", "common", "certify", "spread") if told[name]]
    shown += [f"budgets={list(record.budgets)}"] if record.budgets else []
    return ", ".join([str(record.rule.predictor), *shown])


def plan_of(config: Config) -> Plan | None:
    """The plan that a configuration carries out.

    Raises:
      ConfigError: it is something else.
    """
    if config.plan is not None and not isinstance(config.plan, Plan):
        raise ConfigError(f"Config.plan is {config.plan!r}: give what step.plan(…) or hire.Plan.load(…) returned")
    return config.plan


def _records(entries: list[dict[str, Any]]) -> tuple[SiteRecord, ...]:
    """The sites that can be planned again: not those in a ``shard_map``, which an artifact lists behind them."""
    kept = tuple(SiteRecord.from_dict(entry) for entry in entries if "again" in entry)
    if entries and not kept:
        raise KeyError("again")
    return kept


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
