"""What ``tune`` tried, as a trade-off: milliseconds over what is given up, one curve a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hire_compiler.errors import HireError
from hire_compiler.pictures.style import COLOURS, INK, QUIET, WRITTEN, plain_axes, title
from hire_compiler.reports.findings import counted
from hire_compiler.tuning.tuned import Tried, Tuned

CURVES = ("#dd8b2d", "#7b5ea7", "#2f9e9e", "#b5485d", "#6b8e23", "#8a6d3b")  # of kinds of predictors
MARKS = ("o", "s", "^", "D", "v", "P")  # so that colour alone never tells them apart
MOST = 6  # panels
LEAST_SPAN = 0.001  # of recalls on an axis


def draw_settings(figure: Any, found: Tuned) -> None:
    """One panel a site: exact settings as lines across, one curve for each kind of predictor, the chosen one ringed.

    Settings that fell short of a recall are drawn where they were timed; the others are counted.

    Raises:
      HireError: nothing was timed.
    """
    sites = {name: _timed(found.table, name) for name in dict.fromkeys(tried.site for tried in found.table)}
    sites = {name: timed for name, timed in sites.items() if timed}
    if not sites:
        raise HireError("no setting was timed, so there is nothing to draw: print what tune returned")
    shown = dict(list(sites.items())[:MOST])
    figure.set_size_inches(11, 4.2 * len(shown))
    figure.get_layout_engine().set(h_pad=0.25)
    grid = figure.subplots(len(shown), 1, squeeze=False)
    for (name, timed), axes in zip(shown.items(), grid[:, 0], strict=True):
        _panel(axes, timed, by_loss=found.loss is not None)
        untimed = sum(tried.site == name and tried.ms is None for tried in found.table)
        below = f"the site alone, measured on {found.machine}"
        below += f"; {counted(untimed, 'setting')} rejected without timing" if untimed else ""
        below += f"; {len(sites) - MOST} more sites are in the table" if len(sites) > MOST else ""
        title(axes, f"{name}: the fastest setting for {found.budget}", below)


def _timed(table: Sequence[Tried], site: str) -> list[Tried]:
    return [tried for tried in table if tried.site == site and tried.ms is not None]


def _panel(axes: Any, timed: Sequence[Tried], *, by_loss: bool) -> None:
    most = max(tried.ms or 0.0 for tried in timed)
    for tried in timed:
        if tried.lossless:
            _draw_exact(axes, tried)
    curves: dict[str, list[Tried]] = {}
    for tried in timed:
        if _given_up(tried) is not None:
            curves.setdefault(tried.family or tried.name, []).append(tried)
    for number, (name, some) in enumerate(curves.items()):
        colour, mark = CURVES[number % len(CURVES)], MARKS[number % len(MARKS)]
        points = sorted((_given_up(tried), tried.ms) for tried in some)
        axes.plot(*zip(*points, strict=True), marker=mark, color=colour, linewidth=1.4, markersize=6, label=name)
    if curves and not by_loss:
        _recalls(axes, min(_given_up(tried) or 0.0 for some in curves.values() for tried in some))
    for tried in timed:
        if tried.chosen:
            _ring(axes, tried)
    axes.set_ylim(0, most * 1.15)
    axes.set_xlabel("by how much the loss rises alone" if by_loss else "recall on held-out rows", color=QUIET)
    axes.set_ylabel("milliseconds", color=QUIET)
    axes.xaxis.set_major_formatter((lambda x, _: f"{x:.2%}") if by_loss else _recall)
    plain_axes(axes)
    if curves:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))


def _recalls(axes: Any, least: float) -> None:
    """An axis from the least recall to 1, with some room at both ends."""
    room = max(1 - least, LEAST_SPAN) / 20
    axes.set_xlim(min(least, 1 - LEAST_SPAN) - room, 1 + room)


def _recall(x: float, _: Any) -> str:
    """A mark of that axis: no recall is larger than 1."""
    return f"{x:.5g}" if x < 1 + 1e-9 else ""


def _given_up(tried: Tried) -> float | None:
    return tried.recall if tried.loss is None else tried.loss


def _draw_exact(axes: Any, tried: Tried) -> None:
    colour = WRITTEN if tried.rule is None else COLOURS["certified"]
    axes.axhline(tried.ms, color=colour, linewidth=2)
    axes.annotate(
        f"{tried.name}, {tried.ms:.2f} ms",
        (0, tried.ms),
        (4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=9,
        color=QUIET,
    )


def _ring(axes: Any, tried: Tried) -> None:
    """Around the chosen setting; an exact one is a line, so its end is ringed."""
    at, where = _given_up(tried), "data"
    if at is None:
        at, where = 1.0, "axes fraction"
    words = f"chosen: {tried.name}, {tried.ms:.2f} ms"
    place = {"xycoords": (where, "data"), "textcoords": "offset points"}
    axes.annotate("○", (at, tried.ms), (0, 0), ha="center", va="center", fontsize=20, color=INK, **place)
    low, high = axes.get_xlim() if where == "data" else (0.0, 1.0)
    side, gap = ("left", 12) if at < (low + high) / 2 else ("right", -12)
    axes.annotate(words, (at, tried.ms), (gap, -16), ha=side, fontsize=10, fontweight="bold", color=INK, **place)
