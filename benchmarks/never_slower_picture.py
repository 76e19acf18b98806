"""The ratios of ``benchmarks.never_slower`` as one picture: a dot a program, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hire_compiler.pictures.style import COLOURS, INK, QUIET, plain_axes

_COLOURS = {
    "exact": COLOURS["exact"], "certified": COLOURS["certified"],
    "given up": COLOURS["approximate"], "left dense": COLOURS["dense"],
}  # fmt: skip


def draw(results: Sequence[tuple[str, float, str]], least: float, path: Path) -> None:
    """Draw (program, dense over default, what the default does now) of every program."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    ordered = sorted(results, key=lambda result: result[1])
    figure = Figure(figsize=(7, 0.16 * len(ordered) + 1.2), layout="constrained")
    axis = figure.subplots()
    plain_axes(axis)
    for kind, colour in _COLOURS.items():
        places = [(ratio, i) for i, (_, ratio, now) in enumerate(ordered) if now == kind]
        if places:
            axis.scatter(*zip(*places, strict=True), color=colour, s=14, label=kind, zorder=3)
    axis.axvline(1, color=INK, linewidth=0.8)
    axis.axvline(least, color=QUIET, linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= 1.2 * ordered[-1][1] or tick <= 2]
    axis.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(ordered)), [name for name, *_ in ordered], fontsize=6)
    axis.set_xlabel("as fast as dense, after adapting", color=QUIET)
    axis.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
