"""A report as a picture: what every site read in a call, and what it reads now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hire_compiler.errors import HireError
from hire_compiler.offline.atomic import check_destination, new_file
from hire_compiler.report import Report
from hire_compiler.weights import itemsize

FORMATS = ("svg", "png", "pdf")
DENSE, REWRITTEN, LEFT = "#c9ced6", "#2a78b8", "#8a8f98"


def draw(report: Report | dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the sites of a report: bytes of weights read in a call, dense and rewritten, with what was decided.

    Sites of one shape and one decision share a bar. Where nothing was decided yet (``hire.inspect``) each has its dense
    bar alone; an artifact for several platforms gives one panel a platform. Needs matplotlib (extra ``plot``).

    Args:
      report: what ``step.report()``, ``hire.inspect(…)`` or ``artifact.report()`` returned.
      path: ``.svg``, ``.png`` or ``.pdf``; an existing file is replaced.

    Raises:
      HireError: matplotlib is not installed, the ending is another, the path cannot be written, or there is no site
        that could be drawn.
    """
    target = Path(path)
    ending = target.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise HireError(f"{target}: a picture ends in {', '.join(f'.{name}' for name in FORMATS)}")
    check_destination(target)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise HireError("pictures need matplotlib: pip install 'hire-compiler[plot]'") from None
    panels = [(name, content, _bars(content)) for name, content in _panels(report)]
    if not any(bars for _, _, bars in panels):
        raise HireError("the report holds no site, so there is nothing to draw: hire.inspect says what was missed")
    rows = [max(len(bars), 1) for _, _, bars in panels]
    figure = Figure(figsize=(9, sum(1.2 + 0.75 * n for n in rows)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[1.2 + 0.75 * n for n in rows])
    for (name, content, bars), axes in zip(panels, grid[:, 0], strict=True):
        _draw_panel(axes, bars, f"{name}: {_headline(content)}" if name else _headline(content))
    with new_file(target) as temporary:
        figure.savefig(temporary, format=ending, dpi=150)


def _panels(report: Report | dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Reports by the platform they are of ('' if they do not say)."""
    content = report.to_dict() if isinstance(report, Report) else report
    return [("", content)] if "sites" in content else list(content.items())


def _draw_panel(axes: Any, bars: Sequence[Bar], title: str) -> None:
    for row, bar in enumerate(bars):
        dense, now = bar.dense_bytes / 1e6, bar.sparse_bytes / 1e6
        axes.barh(row - 0.19, dense, 0.36, color=DENSE)
        axes.annotate(f" {dense:.3g} MB", (dense, row - 0.19), va="center", fontsize=8, color="#555555")
        axes.barh(row + 0.19, now, 0.36, color=REWRITTEN if bar.changed else LEFT)
        axes.annotate(f" {bar.outcome}", (now, row + 0.19), va="center", fontsize=8)
    labels = [f"{bar.label}{f'  (×{bar.count})' if bar.count > 1 else ''}" for bar in bars]
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("weights read in a call by one such site, MB (grey: dense)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Bar:
    """Sites that are drawn as one.

    Attributes:
      label: what they are, and what was done.
      dense_bytes, sparse_bytes: read in a call by one of them.
      changed: they were rewritten.
      outcome: what stands behind their second bar.
      count: how many there are.
    """

    label: str
    dense_bytes: int
    sparse_bytes: int = 0
    changed: bool = False
    outcome: str = ""
    count: int = 1


def _bars(content: dict[str, Any]) -> list[Bar]:
    """One bar for each sort of site and decision, in order."""
    decisions = {decision["site"]: decision for decision in content["decisions"]}
    bars: dict[str, Bar] = {}
    for site in content["sites"]:
        bar = _bar(site, decisions.get(site["id"]))
        seen = bars.get(bar.label)
        bars[bar.label] = bar if seen is None else replace(seen, count=seen.count + 1)
    return list(bars.values())


def _bar(site: dict[str, Any], decision: dict[str, Any] | None) -> Bar:
    if decision is None:
        return Bar(f"{_site(site)}\nfound, nothing decided", _site_bytes(site))
    dense, sparse = decision["dense_bytes"], decision["sparse_bytes"]
    if decision["action"] != "rewritten":
        return Bar(f"{_site(site)}\ndense", dense, sparse, outcome=f"{sparse / 1e6:.3g} MB, left dense")
    less = f", {dense / sparse:.1f}× fewer" if sparse else ""
    label = f"{_site(site)}\n{decision['predictor']}, {decision['candidates']} rows exact"
    return Bar(label, dense, sparse, True, f"{sparse / 1e6:.3g} MB{less}")


def _site(site: dict[str, Any]) -> str:
    what = site["activation"] or "+".join(site["consumers"])
    gate = "gated " if site["gated"] else ""
    loop = f" ×{site['repeat']}" if site["repeat"] > 1 else ""
    return f"{site['kind']} {gate}{what}, {site['d']}→{site['width']} {site['dtype']}{loop}"


def _site_bytes(site: dict[str, Any]) -> int:
    """What a site reads as it stands: one matrix of a head, two or three of a block."""
    matrices = 1 if site["kind"] == "head" else 3 if site["gated"] else 2
    return int(matrices * site["d"] * site["width"] * itemsize(site["dtype"]))


def _headline(content: dict[str, Any]) -> str:
    found = [(len(content["sites"]), "site"), (len(content["misses"]), "miss")]
    sites, misses = (f"{n} {word}{'' if n == 1 else 'es' if word == 'miss' else 's'}" for n, word in found)
    if not content["decisions"]:
        return f"{sites}, {misses}, nothing decided"
    rewritten = sum(decision["action"] == "rewritten" for decision in content["decisions"])
    return f"{sites}, {rewritten} rewritten, {misses}"
