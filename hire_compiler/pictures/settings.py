"""What ``tune`` tried, as bars: milliseconds of every setting, with its recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hire_compiler.errors import HireError
from hire_compiler.findings import counted
from hire_compiler.pictures.style import COLOURS, INK, QUIET, WRITTEN, megabytes, plain_axes, scale, title
from hire_compiler.tuning.tuned import Tried


def draw_settings(figure: Any, table: Sequence[Tried], headline: str, below: str) -> None:
    """One panel a site, the fastest setting first; what fell short of the recall was not timed, and is counted.

    Raises:
      HireError: nothing was timed.
    """
    sites = {name: _timed(table, name) for name in dict.fromkeys(tried.site for tried in table)}
    sites = {name: timed for name, timed in sites.items() if timed}
    if not sites:
        raise HireError("no setting was timed, so there is nothing to draw: print what tune returned")
    heights = [1.7 + 0.42 * len(timed) for timed in sites.values()]
    figure.set_size_inches(11, sum(heights))
    figure.get_layout_engine().set(h_pad=0.15)
    grid = figure.subplots(len(sites), 1, squeeze=False, height_ratios=heights)
    for (name, timed), axes in zip(sites.items(), grid[:, 0], strict=True):
        _panel(axes, timed)
        short = sum(tried.site == name and tried.ms is None for tried in table)
        rejected = f"; {counted(short, 'setting')} rejected without timing" if short else ""
        title(axes, f"{name}: {headline}", f"{below}{rejected}")


def _timed(table: Sequence[Tried], site: str) -> list[Tried]:
    return sorted((t for t in table if t.site == site and t.ms is not None), key=lambda t: t.ms or 0.0)


def _panel(axes: Any, timed: Sequence[Tried]) -> None:
    most = max(tried.ms or 0.0 for tried in timed)
    for row, tried in enumerate(timed):
        ms = tried.ms or 0.0
        axes.barh(row, ms, 0.62, color=_colour(tried))
        recall = "loses nothing" if tried.recall is None else f"recall {tried.recall:.4f}"
        words = f"{ms:.2f} ms,  {recall},  {megabytes(tried.read_bytes)} read{',  chosen' if tried.chosen else ''}"
        weight, ink = ("bold", INK) if tried.chosen else ("normal", QUIET)
        axes.text(ms + most * 0.012, row, words, va="center", fontsize=9, fontweight=weight, color=ink)
    axes.set_yticks(range(len(timed)), [_name(tried) for tried in timed])
    axes.invert_yaxis()
    scale(axes, most, "{:g} ms".format)
    plain_axes(axes)


def _name(tried: Tried) -> str:
    return f"{tried.name}, {tried.candidates:,} rows" if tried.candidates else tried.name


def _colour(tried: Tried) -> str:
    if tried.recall is not None:
        return COLOURS["approximate"]
    return COLOURS["certified"] if tried.candidates else WRITTEN
