"""A report as bars: what every kind of site read in a call, and what it reads now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hire_compiler.errors import HireError
from hire_compiler.graph.weight import itemsize
from hire_compiler.pictures.style import COLOURS, INK, QUIET, WRITTEN, megabytes, plain_axes, scale, title
from hire_compiler.reports.report import Decision, Report, Site, answer_of, counted

MEANING = {
    "exact": "exact: only zeros are skipped",
    "certified": "certified: proven at run time",
    "approximate": "approximate",
    "dense": "left dense",
}


@dataclass(frozen=True)
class Bar:
    """Sites of one kind and one decision, drawn as one.

    Attributes:
      label: what they are.
      done: what was done to them, '' where nothing was decided.
      answer: a key of :data:`COLOURS`, or '' where nothing was decided.
      dense_bytes, read_bytes: that all of them read in a call.
      count: how many there are, trips of loops included.
    """

    label: str
    done: str
    answer: str
    dense_bytes: int
    read_bytes: int
    count: int


def draw_reports(figure: Any, reports: Mapping[str, Report]) -> None:
    """One panel a report.

    Raises:
      HireError: none has a site.
    """
    bars = {name: bars_of(report) for name, report in reports.items()}
    if not any(bars.values()):
        raise HireError("the report holds no site, so there is nothing to draw: hire.inspect says what was missed")
    figure.get_layout_engine().set(h_pad=0.15)
    heights = [1.7 + 0.85 * max(len(some), 1) for some in bars.values()]
    figure.set_size_inches(11, sum(heights))
    grid = figure.subplots(len(bars), 1, squeeze=False, height_ratios=heights)
    for (name, some), axes in zip(bars.items(), grid[:, 0], strict=True):
        _panel(axes, some, _headline(reports[name], name), _total(some))
    _legend(figure, {bar.answer for some in bars.values() for bar in some if bar.answer})


def bars_of(report: Report) -> list[Bar]:
    """One bar for each kind of site and decision, the largest first."""
    decisions = {decision.site: decision for decision in report.decisions}
    bars: dict[tuple[str, str, str], Bar] = {}
    for site in report.sites:
        bar = _bar(site, decisions.get(site.id))
        key = (bar.label, bar.done, bar.answer)
        seen = bars.get(key)
        bars[key] = bar if seen is None else _together(seen, bar)
    return sorted(bars.values(), key=lambda bar: -bar.dense_bytes)


def _together(one: Bar, two: Bar) -> Bar:
    return replace(
        one,
        dense_bytes=one.dense_bytes + two.dense_bytes,
        read_bytes=one.read_bytes + two.read_bytes,
        count=one.count + two.count,
    )


def _bar(site: Site, decision: Decision | None) -> Bar:
    what = site.activation or " + ".join(site.consumers)
    kind = {"ffn": "block", "head": "head"}.get(site.kind, site.kind)
    label = f"{kind}: {'gated ' * site.gated}{what}, {site.d:,} → {site.width:,}"
    if decision is None:
        return Bar(label, "", "", _site_bytes(site) * site.repeat, 0, site.repeat)
    done = f"{decision.predictor}, {decision.candidates:,} of {site.width:,} rows exact"
    return Bar(
        label,
        done if decision.action == "rewritten" else "",
        answer_of(decision),
        decision.dense_bytes * site.repeat,
        decision.sparse_bytes * site.repeat,
        site.repeat,
    )


def _site_bytes(site: Site) -> int:
    """What a site reads as it stands: one matrix of a head, two or three of a block."""
    matrices = 1 if site.kind == "head" else 3 if site.gated else 2
    return int(matrices * site.d * site.width * itemsize(site.dtype))


def _panel(axes: Any, bars: Sequence[Bar], headline: str, total: str) -> None:
    most = max((bar.dense_bytes for bar in bars), default=1)
    for row, bar in enumerate(bars):
        _draw_bar(axes, row, bar, most)
    labels = [bar.label if bar.count == 1 else f"{bar.label}\n× {bar.count}" for bar in bars]
    axes.set_yticks(range(len(bars)), labels)
    axes.set_ylim(len(bars) - 0.45, -0.55)
    scale(axes, most, megabytes)
    plain_axes(axes)
    title(axes, headline, total)


def _draw_bar(axes: Any, row: int, bar: Bar, most: int) -> None:
    gap = most * 0.008
    changed = bar.answer not in ("", "dense")
    if not changed:
        axes.barh(row, bar.dense_bytes, 0.42, color=COLOURS["dense"] if bar.answer else WRITTEN)
        words = "left dense" if bar.answer else "found, nothing decided"
        axes.text(
            bar.dense_bytes + gap, row, f"{megabytes(bar.dense_bytes)}, {words}", va="center", fontsize=9, color=QUIET
        )
        return
    axes.barh(row - 0.18, bar.dense_bytes, 0.3, color=WRITTEN)
    axes.text(bar.dense_bytes + gap, row - 0.18, megabytes(bar.dense_bytes), va="center", fontsize=9, color=QUIET)
    axes.barh(row + 0.16, bar.read_bytes, 0.3, color=COLOURS[bar.answer])
    fewer = f"{bar.dense_bytes / bar.read_bytes:.1f}× fewer" if bar.read_bytes else ""
    words = f"{megabytes(bar.read_bytes)}, {fewer}"
    axes.text(
        bar.read_bytes + gap, row + 0.16, words, va="center", fontsize=10, fontweight="bold", color=COLOURS[bar.answer]
    )
    axes.annotate(
        f"  {bar.done}",
        (bar.read_bytes + gap, row + 0.16),
        (len(words) * 6.2 + 8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=INK,
    )


def _legend(figure: Any, answers: set[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[key], label=MEANING[key]) for key in COLOURS if key in answers]
    if answers - {"dense"} or not answers:
        handles.insert(0, Patch(color=WRITTEN, label="as written"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)


def _headline(report: Report, platform: str) -> str:
    sites = sum(site.repeat for site in report.sites)
    if not report.decisions:
        said = f"{counted(sites, 'site')} found, {counted(len(report.misses), 'miss')}"
    else:
        repeats = {site.id: site.repeat for site in report.sites}
        done = sum(repeats[decision.site] for decision in report.rewritten)
        said = f"{done} of {counted(sites, 'site')} rewritten"
    return f"{platform}: {said}" if platform else said


def _total(bars: Sequence[Bar]) -> str:
    dense, read = sum(bar.dense_bytes for bar in bars), sum(bar.read_bytes for bar in bars)
    if not read or read == dense:
        return f"bytes of weights read in a call: {megabytes(dense)}"
    return f"bytes of weights read in a call: {megabytes(dense)} → {megabytes(read)}, {dense / read:.2f}× fewer"
