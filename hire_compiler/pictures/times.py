"""A comparison as bars: milliseconds a call of each program."""

from __future__ import annotations

from typing import Any

from hire_compiler.comparison.comparison import AS_WRITTEN, DENSE, REWRITTEN, Comparison
from hire_compiler.pictures.style import COLOURS, INK, QUIET, WRITTEN, plain_axes, scale, title

NAMES = {AS_WRITTEN: "as written", REWRITTEN: "rewritten", DENSE: "the dense form given"}


def draw_times(figure: Any, found: Comparison) -> None:
    """One bar a program, with the middle half of its calls."""
    figure.set_size_inches(11, 1.9 + 0.6 * len(found.timings))
    axes = figure.subplots()
    most = max(timing.spread_ms[1] for timing in found.timings)
    for row, timing in enumerate(found.timings):
        mine = timing.program == REWRITTEN
        axes.barh(row, timing.ms, 0.6, color=COLOURS["certified"] if mine else WRITTEN)
        low, high = timing.spread_ms
        if not found.estimated:
            axes.plot([low, high], [row, row], color=INK, linewidth=1.2, solid_capstyle="butt")
        ratio = "" if timing.program == AS_WRITTEN else f",  {found.ratio_of(timing.program):.2f}× as fast as written"
        axes.text(
            max(timing.ms, high) + most * 0.015,
            row,
            f"{timing.ms:.3g} ms{ratio}",
            va="center",
            fontsize=11,
            fontweight="bold" if mine else "normal",
            color=COLOURS["certified"] if mine else QUIET,
        )
    axes.set_yticks(range(len(found.timings)), [NAMES[timing.program] for timing in found.timings])
    axes.invert_yaxis()
    scale(axes, most, "{:g}".format)
    plain_axes(axes)
    axes.set_xlabel("milliseconds a call" + ("" if found.estimated else "; line: middle half of the calls"), fontsize=9)
    axes.xaxis.label.set_color(QUIET)
    title(axes, f"{found.name}: {found.ratio:.2f}× as fast", _below(found))


def _below(found: Comparison) -> str:
    where = f"estimated by {found.estimated} for {found.machine}" if found.estimated else f"measured on {found.machine}"
    equal, total = found.tokens
    return f"{where};  {equal} of {total} tokens equal" if total else where
