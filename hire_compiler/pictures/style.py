"""Colours and sizes that all pictures share."""

from __future__ import annotations

from typing import Any

INK, QUIET, RULE = "#1f2430", "#6b7280", "#9ca3af"
WRITTEN = "#c9ced6"  # what the author's program does
# Distinguishable with any common colour blindness, and in grey.
COLOURS = {"exact": "#1b7f6b", "certified": "#2b6cb0", "approximate": "#dd8b2d", "dense": "#9aa1ac"}


def plain_axes(axes: Any) -> None:
    """No frame but a quiet line on the left, small grey numbers."""
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(RULE)
    axes.tick_params(length=0, labelsize=9, colors=QUIET)
    axes.tick_params(axis="y", labelsize=10, colors=INK)


def scale(axes: Any, most: float, name: Any) -> None:
    """Numbers below the bars, as far as these reach, and room for the words behind the longest one."""
    axes.set_xlim(0, most * 1.45)
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= most * 1.05]
    axes.set_xticks(ticks, [name(tick) if tick else "0" for tick in ticks])


def title(axes: Any, text: str, below: str = "") -> None:
    """A bold title over the whole picture's left edge, and a quiet line below it."""
    axes.set_title(text, loc="left", fontsize=13, fontweight="bold", color=INK, pad=28 if below else 12)
    if below:
        axes.annotate(
            below, (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points", fontsize=10, color=QUIET
        )


def megabytes(n: float) -> str:
    """``671 MB``, ``8.39 MB``, ``32.8 kB``."""
    if n >= 1e9:
        return f"{n / 1e9:.3g} GB"
    return f"{n / 1e6:.3g} MB" if n >= 1e5 else f"{n / 1e3:.3g} kB"
