"""How things look on a terminal: progress on stderr, tables and summaries on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap

from hire_compiler.cli.words import on_the_command_line
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.verify import Verification
from hire_compiler.reports.report import report_of
from hire_compiler.reports.text import report_text

WIDTH, NARROW = 80, 12  # of a table, and of a column that is not made narrower


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Columns of text, as wide as they need; where that is too wide, the cells of the widest ones are broken."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    gaps = 2 * (len(widths) - 1)
    while sum(widths) + gaps > width and max(widths) > NARROW:
        widths[widths.index(max(widths))] -= 1
    lines = [_row(head, widths), "  ".join("─" * n for n in widths), *(_row(row, widths) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [wrap(cell, max(n, 1)) or [""] for cell, n in zip(cells, widths, strict=True)]  # a column may be empty
    lines = zip_longest(*parts, fillvalue="")
    return "\n".join("  ".join(part.ljust(n) for part, n in zip(line, widths, strict=True)).rstrip() for line in lines)


def show(text: str) -> None:
    """Print text; in colours with ``rich`` where a terminal looks."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        print(text)
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ModuleNotFoundError:
        print(text)
        return
    coloured = Text(text, no_wrap=True)
    for pattern, style in STYLES:
        coloured.highlight_regex(pattern, style)
    Console(highlight=False).print(coloured, soft_wrap=True)


STYLES = (
    (r"(?m)^  (on\?|right\?|fast\?|why not\?|proof|reads|memory|once|note|time|miss|ffn|head|dense=) ", "bold cyan"),
    (r"(?m)^hire_compiler: .*$", "bold"),
    (r"(?m)^─[─ ]*$", "dim"),
    (r"\d+\.\d+×", "bold green"),
    (r"\b(exact|certified): ", "green"),
    (r"\bapproximate: ", "yellow"),
    (r"(?m)\bleft dense: ", "dim"),
    (r"(?m)^FAILED: .*$", "bold red"),
)


def artifact_lines(artifact: Artifact, full: bool = False) -> list[str]:
    """What an artifact is, and what was done to it on every platform; ``full`` leaves nothing out."""
    manifest = artifact.manifest
    made = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    lines = [f"{artifact.where}: rewritten from {manifest.name}"]
    lines += wrap(f"written by {made}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines.append(f"  fingerprint {manifest.fingerprint[:16]} of module {manifest.source[:16]}")
    for name, entry in manifest.platforms.items():
        report = report_of(artifact.report()[name])
        size = sum(spec.nbytes for spec in entry.weights.values()) / 1e6
        state = f"{size:.1f} MB in {entry.stored}" if entry.stored else f"{size:.1f} MB, not prepared yet"
        lines += ["", f"{name}: weights {state}", *report_text(report, full, on_the_command_line).splitlines()]
    inputs = [[entry.name, str(entry.spec), "donated" if entry.donated else ""] for entry in manifest.inputs]
    return [*lines, "", table(("input", "type", ""), inputs)]


def verification_lines(found: Verification) -> list[str]:
    """A table of differences, the summary, and what was not kept."""
    rows = [
        [
            d.name,
            d.spec,
            f"{d.equal} of {d.total}" if d.total else f"{d.largest:.3g} (of {d.scale:.3g})",
            " ".join(f"@{k} {share:.4f}" for k, share in d.recall.items()),
        ]
        for d in found.differences
    ]
    lines = [table(("result", "type", "equal, or largest error", "recall"), rows), ""]
    lines.append(f"{found.trials} trials on {found.inputs} inputs")
    said = []
    if any(not d.total for d in found.differences):
        said.append(f"largest relative error {found.max_error:.3g}")
    if found.token_agreement is not None:
        said.append(f"integers that agree {found.token_agreement:.2%}")
    lines += ["; ".join(said)] * bool(said)
    for site, (count, proven) in found.certificates.items():
        lines.append(f"proof of {site} held for {proven} of {count} rows ({proven / max(count, 1):.2%})")
    if found.comparison is not None:
        lines += ["", *str(found.comparison).splitlines(), ""]
    if not found.promise.exact and found.failures and "random" in found.inputs:
        lines.append("the artifact is approximate, and was planned for real inputs: give some (--inputs)")
    return [*lines, *(f"FAILED: {failure}" for failure in found.failures)]
