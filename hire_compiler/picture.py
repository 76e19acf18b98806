"""A report as a picture: what every site read in a call, and what it reads now."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from hire_compiler.errors import HireError
from hire_compiler.offline.atomic import new_file
from hire_compiler.report import Report

FORMATS = ("svg", "png", "pdf")
DENSE, REWRITTEN, LEFT = "#c9ced6", "#2a78b8", "#8a8f98"


def draw(report: Report | dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the sites of a report: bytes of weights read in a call, dense and rewritten, with what was decided.

    Sites of one shape and one decision share a bar. Needs matplotlib (extra ``plot``).

    Args:
      report: what ``step.report()`` or ``artifact.report()`` returned.
      path: ``.svg``, ``.png`` or ``.pdf``; an existing file is replaced.

    Raises:
      HireError: matplotlib is not installed, the ending is another, or nothing was decided that could be drawn.
    """
    target = Path(path)
    ending = target.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise HireError(f"{target}: a picture ends in {', '.join(f'.{name}' for name in FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise HireError("pictures need matplotlib: pip install 'hire-compiler[plot]'") from None
    content = report.to_dict() if isinstance(report, Report) else report
    bars = _bars(content)
    if not bars:
        raise HireError("the report holds no decision, so there is nothing to draw: rewrite a program with sites first")
    figure = Figure(figsize=(9, 1.2 + 0.75 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for row, (decision, _, _) in enumerate(bars):
        now = decision["sparse_bytes"] / 1e6
        dense = decision["dense_bytes"] / 1e6
        changed = decision["action"] == "rewritten"
        axes.barh(row - 0.19, dense, 0.36, color=DENSE, label="dense" if row == 0 else None)
        axes.barh(row + 0.19, now, 0.36, color=REWRITTEN if changed else LEFT)
        ratio = f"{dense / now:.1f}× fewer" if changed and now else "left dense"
        axes.annotate(f" {now:.3g} MB, {ratio}", (now, row + 0.19), va="center", fontsize=8)
        axes.annotate(f" {dense:.3g} MB", (dense, row - 0.19), va="center", fontsize=8, color="#555555")
    axes.set_yticks(range(len(bars)), [f"{label}{f'  (×{count})' if count > 1 else ''}" for _, label, count in bars])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("weights read in a call by one such site, MB (grey: dense)")
    axes.set_title(_headline(content), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with new_file(target) as temporary:
        figure.savefig(temporary, format=ending, dpi=150)


def _bars(content: dict[str, Any]) -> list[tuple[dict[str, Any], str, int]]:
    """One decision of each sort, what it is about, and how many there are."""
    sites = {site["id"]: site for site in content["sites"]}
    seen: Counter[str] = Counter()
    first: dict[str, dict[str, Any]] = {}
    for decision in content["decisions"]:
        label = _label(sites[decision["site"]], decision)
        seen[label] += 1
        first.setdefault(label, decision)
    return [(first[label], label, count) for label, count in seen.items()]


def _label(site: dict[str, Any], decision: dict[str, Any]) -> str:
    what = site["activation"] or "+".join(site["consumers"])
    gate = "gated " if site["gated"] else ""
    shape = f"{site['d']}→{site['width']} {site['dtype']}" + (f" ×{site['repeat']}" if site["repeat"] > 1 else "")
    how = "dense"
    if decision["action"] == "rewritten":
        how = f"{decision['predictor']}, {decision['candidates']} rows exact"
    return f"{site['kind']} {gate}{what}, {shape}\n{how}"


def _headline(content: dict[str, Any]) -> str:
    rewritten = sum(decision["action"] == "rewritten" for decision in content["decisions"])
    return f"{len(content['sites'])} sites, {rewritten} rewritten, {len(content['misses'])} misses"
