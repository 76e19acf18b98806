"""``draw``: reports and comparisons as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hire_compiler.comparison.comparison import Comparison
from hire_compiler.errors import HireError
from hire_compiler.files.atomic import check_destination, new_file
from hire_compiler.pictures.bars import draw_reports
from hire_compiler.pictures.settings import draw_settings
from hire_compiler.pictures.times import draw_times
from hire_compiler.reports.report import Report, report_of
from hire_compiler.tuning.tuned import Tuned

FORMATS = ("svg", "png", "pdf")


def draw(what: Report | Comparison | Tuned | Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw a report or a comparison; needs matplotlib (extra ``plot``).

    Of a report: for every kind of site a bar of the bytes of weights that all sites of the kind read in a call, as
    written, and one of those that they read now, coloured by what the answer is: exact, certified, approximate, or
    dense as written. Where nothing was decided yet (``hire.inspect``) each has the first bar alone; an artifact for
    several platforms gives one panel a platform. Of a comparison: milliseconds a call of each program. Of what
    :func:`hire_compiler.tune` found: milliseconds over recall (or over what the loss rises), one curve a predictor.

    Args:
      what: what ``step.report()``, ``hire.inspect(…)``, ``artifact.report()``, ``hire.compare(…)`` or
        ``hire.tune(…)`` returned.
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
    figure = Figure(layout="constrained")
    if isinstance(what, Comparison):
        draw_times(figure, what)
    elif isinstance(what, Tuned):
        draw_settings(figure, what)
    else:
        draw_reports(figure, _reports(what))
    with new_file(target) as temporary:
        figure.savefig(temporary, format=ending, dpi=150, bbox_inches="tight", pad_inches=0.25)


def _reports(what: Report | Mapping[str, Any]) -> dict[str, Report]:
    """Reports by the platform they are of ('' if they do not say)."""
    if isinstance(what, Report):
        return {"": what}
    if "sites" in what:
        return {"": report_of(what)}
    return {platform: report_of(content) for platform, content in what.items()}
