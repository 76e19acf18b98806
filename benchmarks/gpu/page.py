"""What a run found, as a Markdown page or a few plain lines."""

from __future__ import annotations

from typing import Any

TITLES = {"step": "The whole decode step", "head": "The head by itself", "blocks": "Feed-forward blocks"}
INTRODUCTION = """\
# GPU, measured

`python -m benchmarks.gpu` on {device} ({date}; jax {jax}, jaxlib {jaxlib}). Weights are random, of real shapes.
*Chained*: calls enqueued behind each other, as a decode loop runs; *one by one*: every call is waited for. Medians,
candidates in turns. *Best dense* is the fastest dense form by chained time. Bytes are weights that a call reads, as
planned. The card itself reads {read:.2f} TB/s and copies {copy:.2f} TB/s (read and written); a call that does nothing
takes {empty:.0f} µs one by one and {chained:.0f} µs chained."""


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    memory = found.get("memory") or {}
    empty = memory.get("empty_call_us", {})
    lines = [
        INTRODUCTION.format(
            read=memory.get("read_bytes_per_second", 0) / 1e12, copy=memory.get("copy_bytes_per_second", 0) / 1e12,
            empty=empty.get("one by one", 0), chained=empty.get("chained", 0), **found["machine"],
        )
    ]  # fmt: skip
    if found["machine"]["platform"] != "gpu" or found["quick"]:
        lines.insert(0, "**A trial of the program, not a measurement: no GPU, or tiny shapes.**\n")
    for part, title in TITLES.items():
        tables = found["tables"].get(part, [])
        lines += [f"\n## {title}"] if tables else []
        for table in tables:
            lines.append(f"\n**{table['title']}**" + (f": {table['note']}" if table.get("note") else "") + "\n")
            lines += _markdown(table, memory) if table["rows"] else []
    return "\n".join(lines) + "\n"


HEADER = (
    "form",
    "µs chained",
    "µs one by one",
    "GB/s",
    "of reading",
    "over as written",
    "over best dense",
    "held",
    "equal",
    "",
)


def _markdown(table: dict[str, Any], memory: dict[str, Any]) -> list[str]:
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    return lines + ["| " + " | ".join(cells) + " |" for cells in _cells(table, memory)]


def _cells(table: dict[str, Any], memory: dict[str, Any] | None) -> list[list[str]]:
    written, best = _baselines(table)
    speed, cells = (memory or {}).get("read_bytes_per_second", 0), []
    for row in table["rows"]:
        t = row["chained_us"]
        if not t:
            cells.append([row["form"], *[""] * 6, row["proofs"], row["equal"], row["note"]])
            continue
        rate = row["nbytes"] / t * 1e6
        ratios = [f"{written / t:.2f}×" if written else "", f"{best / t:.2f}×" if best else ""]
        share = f"{rate / speed:.0%}" if speed else ""
        times = [f"{t:.1f}", f"{row['single_us']:.1f}", f"{rate / 1e9:.0f}", share]
        cells.append([row["form"], *times, *ratios, row["proofs"], row["equal"], row["note"]])
    return cells


def _baselines(table: dict[str, Any]) -> tuple[float, float]:
    """Chained times of the program as written and of the best dense form; 0 where they are missing."""
    dense = [row for row in table["rows"] if row["kind"] == "dense" and row["chained_us"]]
    written = next((row["chained_us"] for row in dense if "as written" in row["form"]), 0.0)
    return written, min((row["chained_us"] for row in dense), default=0.0)


def short(table: dict[str, Any], memory: dict[str, Any] | None = None) -> str:
    """A table in few characters."""
    lines = [table["title"] + (f": {table['note'].strip()[-200:]}" if table.get("note") else "")]
    for row, cells in zip(table["rows"], _cells(table, memory), strict=True):
        form, chained, single, rate, share, over, best, proofs, equal, note = cells
        figures = f"{chained} µs, alone {single}, {rate} GB/s {share}, {over} {best}" if chained else ""
        parts = [
            figures,
            f"held {proofs}" if proofs else "",
            equal,
            note[:90] if not chained or row["kind"] == "note" else "",
        ]
        lines.append(f"  {form}: " + "; ".join(part for part in parts if part) + f" [{row['build_seconds']:.1f} s]")
    return "\n".join(lines)
