"""What ``tune`` found: a configuration, what it was learned from, and everything that was tried."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from hire_compiler.config.predictors import Exact
from hire_compiler.config.read_toml import read_rules
from hire_compiler.config.rules import Config, Kind, Rule
from hire_compiler.config.write_toml import write_rules
from hire_compiler.errors import ConfigError
from hire_compiler.learned.calibration import Calibration
from hire_compiler.offline.calibrate_export import load_calibration, save_calibration
from hire_compiler.reports.findings import counted

DEFAULT = "the exact default"  # nothing is tried, and no rule is written


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One setting of one site.

    Attributes:
      site: id of the site.
      name: of the setting: ``dense``, ``certified``, or the predictor.
      family: settings that differ in rank and candidates only.
      rule: that asks for it; None where nothing can.
      candidates: rows computed exactly; the fewest that meet the budget, or the most that were tried.
      recall: on held-out rows, of what the program reads (of a block: of its active neurons); None where nothing is
        lost, or nothing was measured.
      loss: by which share the loss of the whole program rises if this alone is done; None where nothing is lost, or
        nothing was measured.
      ms: of the site alone, a median; None if it was not timed.
      read_bytes, added_bytes: in a call, and beside the weights.
      chosen: it is part of the configuration.
      why: it was chosen, or rejected.
    """

    site: str
    name: str
    family: str = ""
    rule: Rule | None = None
    candidates: int = 0
    recall: float | None = None
    loss: float | None = None
    ms: float | None = None
    read_bytes: int = 0
    added_bytes: int = 0
    chosen: bool = False
    why: str = ""

    @property
    def lossless(self) -> bool:
        """Whether it changes no answer."""
        return self.rule is None or bool(self.rule.certify) or isinstance(self.rule.predictor, Exact)

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from the other settings."""
        return self.site, self.name, self.candidates

    @property
    def decides(self) -> Rule:
        """The rule that makes it so."""
        kind: Kind = "head" if self.site.startswith("head/") else "ffn"
        return self.rule or Rule(kind=kind, path=f"^{self.site}$", dense=True)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The fastest settings that meet a budget.

    Attributes:
      config, calibration: for :func:`hire_compiler.transform`.
      table: everything that was tried.
      recall, loss: the budget; one of them is None.
      rows: held-out rows of input (of a loss: tokens) that it was measured on.
      machine: where it was timed.
      notes: what else is worth knowing.
    """

    config: Config
    calibration: Calibration
    table: tuple[Tried, ...] = ()
    recall: float | None = None
    loss: float | None = None
    rows: int = 0
    machine: str = ""
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[Tried, ...]:
        """The settings that were chosen, one a site."""
        return tuple(tried for tried in self.table if tried.chosen)

    def save(self, path: Any) -> Path:
        """Write the rules as TOML, and the calibration that they need beside it (``rules.safetensors``).

        ``hire-compiler rewrite --rules rules.toml --calibration rules.safetensors`` takes both, and
        :meth:`Tuned.load`.
        """
        target = Path(path)
        if target.suffix != ".toml":
            raise ConfigError(f"{target}: rules are written as TOML: name a file that ends in .toml")
        write_rules(self.config, target)
        save_calibration(self.calibration, target.with_suffix(".safetensors"))
        return target

    @staticmethod
    def load(path: Any) -> Tuned:
        """What :meth:`save` wrote: configuration and calibration, without the table."""
        source = Path(path)
        return Tuned(config=read_rules(source).config, calibration=load_calibration(source.with_suffix(".safetensors")))

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; without the calibration's arrays."""
        table = [{**asdict(replace(t, rule=None)), "rule": None if t.rule is None else str(t.rule)} for t in self.table]
        budget = {"recall": self.recall, "loss": self.loss}
        return {**budget, "rows": self.rows, "machine": self.machine, "notes": self.notes, "table": table}

    def to_json(self, *, indent: int | None = 2) -> str:
        """The table as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    @property
    def budget(self) -> str:
        """What was asked for: ``recall 0.999``, ``loss +0.5 %``."""
        return f"loss +{self.loss:.3%}" if self.loss is not None else f"recall {self.recall or 1:g}"

    def __str__(self) -> str:
        if not self.table:
            return f"{counted(len(self.config.rules), 'rule')} in config; no table of what was tried came with them"
        measured = "tokens" if self.loss is not None else "rows"
        lines = [f"{self.budget} on {self.rows} held-out {measured}, timed on {self.machine}"]
        for sites, some in self._alike().items():
            lines += ["", sites, *_rows(some)]
        for note in self.notes:
            lines += wrap(note, 80, initial_indent="note  ", subsequent_indent=" " * 6)
        return "\n".join(lines)

    def _alike(self) -> dict[str, list[Tried]]:
        """What was tried, by site; sites of which the same is to be said stand together."""
        together: dict[str, list[str]] = {}
        rows: dict[str, list[Tried]] = {}
        for site in dict.fromkeys(tried.site for tried in self.table):
            some = [tried for tried in self.table if tried.site == site]
            alone = len(some) == 1
            key = repr(replace(some[0], site="")) if alone else site
            together.setdefault(key, []).append(site)
            rows.setdefault(key, some)
        return {_named(sites): rows[key] for key, sites in together.items()}


def _named(sites: list[str]) -> str:
    return sites[0] if len(sites) == 1 else f"{sites[0]} … {sites[-1]} ({len(sites)} sites)"


def _rows(some: list[Tried]) -> list[str]:
    by_loss = any(tried.loss is not None for tried in some)
    lines = [f"    {'setting':<34}{'k':>5}{'loss' if by_loss else 'recall':>8}{'ms':>8}{'read':>10}{'added':>10}"]
    for tried in some:
        recall = "" if tried.recall is None else f"{tried.recall:.4f}"
        cost = recall if tried.loss is None else f"{tried.loss:+.2%}"
        ms = "" if tried.ms is None else f"{tried.ms:.2f}"
        read, added = (f"{n / 1e6:.3g} MB" if n else "" for n in (tried.read_bytes, tried.added_bytes))
        mark, k = "→" if tried.chosen else " ", str(tried.candidates or "")
        lines.append(f"  {mark} {tried.name:<34}{k:>5}{cost:>8}{ms:>8}{read:>10}{added:>10}".rstrip())
        lines += wrap(tried.why, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines
