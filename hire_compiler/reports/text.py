"""A report as text: is it on, is the answer still right, how fast is it, and why is not more rewritten."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from textwrap import wrap
from typing import TypeVar

from hire_compiler.reports.findings import (
    Certificate,
    Decision,
    Findings,
    Miss,
    Site,
    TailError,
    bytes_read,
    counted,
    megabytes,
    split_seconds,
)

WIDTH = 80
MOST_MISSES = 6  # reasons that are shown unless everything is asked for
USUALLY = 0.5  # a proof that holds for a smaller share of the rows gains little
T = TypeVar("T")
_Section = tuple[str, str | None, Sequence[str]]  # a label, what stands for it in further entries, and the entries


def report_text(found: Findings, full: bool = False, words: Callable[[str], str] = str) -> str:
    """The report as text of 80 columns; of an inspected program what was found, else answers to four questions.

    Args:
      found: what to say.
      full: leave nothing out.
      words: put sentences into other words (those of the command line) before lines are broken.
    """
    unchanged = any("the function runs unchanged" in note for note in found.notes)
    inspected = not (found.decisions or found.respelled or unchanged)
    headline = _headline_of_inspection(found) if inspected else _headline(found)
    lines = wrap(headline, WIDTH, subsequent_indent=" " * 4, break_on_hyphens=False)
    for label, repeat, entries in _inspected(found, full) if inspected else _answers(found, full):
        lines += labelled(label, [words(entry) for entry in entries], repeat)
    return "\n".join(lines)


def _inspected(found: Findings, full: bool) -> list[_Section]:
    return [
        *((kind, None, [line]) for kind, line in _site_lines(found.sites)),
        ("miss", None, _miss_lines(found.misses, full)),
        ("note", None, found.notes),
        ("time", None, _time(found, full)),
    ]


def _answers(found: Findings, full: bool) -> list[_Section]:
    return [
        ("on?", "", _on(found, full)),
        ("dense", "", _forms(found, full)),
        ("right?", "", _right(found)),
        ("fast?", "", _fast(found)),
        ("why not?", "", _why_not(found, full)),
        ("note", None, found.notes),
        ("time", None, _time(found, full)),
    ]


def labelled(label: str, lines: Iterable[str], repeat: str | None = None) -> list[str]:
    """Entries behind a label, wrapped at 80 columns; the label again before each, or ``repeat`` in its place.

    Further lines of an entry stand under its first, further in.
    """
    text: list[str] = []
    for entry in lines:
        first, *rest = entry.split("\n")
        name = label if not text or repeat is None else repeat
        text += wrap(first, WIDTH, initial_indent=f"  {name:<8} ", subsequent_indent=" " * 13, break_long_words=False)
        for line in rest:
            text += wrap(line, WIDTH, initial_indent=" " * 13, subsequent_indent=" " * 15, break_long_words=False)
    return text


# --------------------------------------------------------------------------- is it on?


def _headline_of_inspection(found: Findings) -> str:
    return f"hire_compiler: {_sites(found)}, {counted(len(found.misses), 'miss')}"


def _headline(found: Findings) -> str:
    if not found.rewritten and found.respelled:
        return f"hire_compiler: on, {counted(len(found.respelled), 'product')} respelled, no site rewritten"
    if not found.rewritten:
        why = f": {counted(len(found.sites), 'site')}, none rewritten" if found.sites else ": no site was found"
        return f"hire_compiler: off{why}"
    if any(note.startswith("runs as written") for note in found.notes):
        return "hire_compiler: off for these weights"
    dense, read = bytes_read(found, found.certificates)
    done = f"{len(found.rewritten)} of {_sites(found)} rewritten"
    planned = bytes_read(found)[1]
    beside = f" ({megabytes(planned)} planned)" if megabytes(planned) != megabytes(read) else ""
    return f"hire_compiler: on, {done}, {megabytes(dense)} → {megabytes(read)} read a call{beside}"


def _sites(found: Findings) -> str:
    trips = sum(site.repeat for site in found.sites)
    loops = f" ({trips} with loops)" if trips != len(found.sites) else ""
    return f"{counted(len(found.sites), 'site')}{loops}"


def _on(found: Findings, full: bool) -> list[str]:
    decisions = {decision.site: decision for decision in found.rewritten}
    done = [(site, decisions[site.id]) for site in found.sites if site.id in decisions]
    groups = _grouped(done, lambda pair: (_what(pair[0]), _done_text(*pair, full)))
    return [f"{_names(s.id for s, _ in group)}: {what}\n{text}" for (what, text), group in groups]


def _done_text(site: Site, decision: Decision, full: bool) -> str:
    grouped = f" in groups of {decision.group}" if decision.group > 1 else ""
    common = f", {decision.common} of them always (common path)" if decision.common else ""
    tail = f", tail {decision.tail}" if decision.tail else ""
    word = "experts" if site.kind == "experts" else "rows"
    rows = f"{decision.predictor}, {decision.candidates} of {site.width} {word} exact{grouped}{common}{tail}"
    saved = f"{megabytes(decision.dense_bytes)} → {megabytes(decision.sparse_bytes)} read a call"
    added = f", {megabytes(decision.added_bytes)} added" if decision.added_bytes else ""
    lines = [f"{rows}; {saved}{added}{_shard_text(decision)}", *_union_lines(decision) * full]
    lines += [decision.adapted] * bool(decision.adapted)
    lines += [f"every entry is a {decision.kept} number, and is kept and read as one"] * bool(decision.kept)
    return "\n".join(lines)


def _forms(found: Findings, full: bool) -> list[str]:
    """What stays dense in another form: a line a form, or one a product."""
    if full:
        return [f"{r.weight}: {megabytes(r.nbytes)} a call by {r.form}  [{r.path}]" for r in found.respelled]
    groups = _grouped(found.respelled, lambda respelled: respelled.form)
    return [
        f"{counted(len(group), 'product')}, {megabytes(sum(r.nbytes for r in group))} a call: read by {form}; "
        "the same products, summed in another order"
        for form, group in groups
    ]


def _shard_text(decision: Decision) -> str:
    if decision.shards == 1:
        return ""
    kept = decision.candidates // decision.shards
    recall = f", expected to hold {decision.shard_recall:.2%} of the best" if decision.predictor != "Exact()" else ""
    return f"; {decision.shards} shards choose {kept} rows each{recall}; bytes are one device's"


def _union_lines(decision: Decision) -> list[str]:
    """What share of all groups a call touches, for the sizes that tell most."""
    shown = [(g, share) for g, share in decision.union if g in (1, 8, 32, 128, decision.group)]
    shares = ", ".join(f"{share:.1%} of {f'all groups of {g}' if g > 1 else 'neurons'}" for g, share in shown)
    return [f"calibrated: a call touches {shares}"] if shown else []


# --------------------------------------------------------------------------- is the answer still right?


def _right(found: Findings) -> list[str]:
    groups = _grouped(found.rewritten, lambda d: (d.site.partition("/")[0], f"{d.exactness}{_loss_text(d)}"))
    lines = [f"{_names(d.site for d in group)}: {text}" for (_, text), group in groups]
    measured = [certificate for certificate in found.certificates if certificate.rows]
    lines += proof_lines(measured)
    if len(measured) < len(found.certificates):
        waiting = [certificate.site for certificate in found.certificates if not certificate.rows]
        lines.append(f"{_names(waiting)}: no call yet, so no proof was tried")
    return lines + [f"tail {_tail_line(tail)}" for tail in found.tails]


def _loss_text(decision: Decision) -> str:
    if decision.recall is None or decision.error is None:
        return ""
    return f"; measured on calibration rows: recall {decision.recall:.2%}, output off by {decision.error:.2%}"


def proof_lines(proofs: Sequence[Certificate], *, advised: bool = True) -> list[str]:
    """How often proofs held: of each kind of site a line for those where they always, mostly and rarely did."""
    groups = _grouped(proofs, lambda proof: (proof.site.partition("/")[0], _how_often(proof)))
    return [
        _proof_line(group, _ADVICE.get(kind, "") if advised and often == "rarely" else "")
        for (kind, often), group in groups
    ]


def _how_often(proof: Certificate) -> str:
    return "always" if proof.proven == proof.rows else "mostly" if proof.proven >= USUALLY * proof.rows else "rarely"


def _proof_line(group: Sequence[Certificate], advice: str) -> str:
    held, rows = sum(p.proven for p in group), sum(p.rows for p in group)
    slack = max(p.slack for p in group)
    start, end = f"{_names(p.site for p in group)}: held for", f", slack τ ≤ {slack:.2g}" if slack else ""
    if held == rows:
        return f"{start} all {rows} rows{end}"
    share = f"{held} of {rows} rows ({held / rows:.2%})"
    return f"{start} {share}; for the others the dense code ran{end}" + f"\n{advice}" * bool(advice)


_ADVICE = {
    "ffn": "there is too little room for its active neurons: calibrate it (hire.calibrate), give its rule a larger "
    "density, or leave it dense (Rule(…, dense=True))",
    "head": "too many rows are close to the winners: give its rule more candidates, or leave it dense "
    "(Rule(…, dense=True))",
}


def _tail_line(tail: TailError) -> str:
    if not tail.rows:
        return f"{tail.site}: no call yet"
    return f"{tail.site}: predicted logits were off by {tail.rms:.2g} (rms), {tail.largest:.2g} at most"


# --------------------------------------------------------------------------- how fast?


def _fast(found: Findings) -> list[str]:
    if found.speed is None:
        return ["not measured: hire.compare(step, …) says it"] if found.rewritten else []
    speed = found.speed
    times = f"{_ms(speed.written_ms)} → {_ms(speed.rewritten_ms)} ms a call"
    how = f"estimated by {speed.estimated} for" if speed.estimated else f"median of {speed.calls} calls in turns on"
    lines = [f"{speed.written_ms / speed.rewritten_ms:.2f}× as fast: {times} ({how} {speed.machine})"]
    return lines + [speed.outputs] * bool(speed.outputs)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


# --------------------------------------------------------------------------- why not more?


def _why_not(found: Findings, full: bool) -> list[str]:
    decisions = {decision.site: decision for decision in found.decisions if decision.action == "dense"}
    left = [(site, decisions[site.id].reason) for site in found.sites if site.id in decisions]
    groups = _grouped(left, lambda pair: (_what(pair[0]), _of_any_rule(pair[1])))
    lines = [
        f"{_names(s.id for s, _ in group)}: {what}\nleft dense: {reason if len(group) > 1 else group[0][1]}"
        for (what, reason), group in groups
    ]
    return lines + _miss_lines(found.misses, full)


def _of_any_rule(reason: str) -> str:
    """A reason without the number of a rule: ``tune`` writes a rule for each site, and equal layers share a line."""
    return re.sub(r"^rule \d+ says so$", "their rules say so", reason)


def _miss_lines(misses: Sequence[Miss], full: bool) -> list[str]:
    """One line a reason, with the first place where it holds; one for all misses that were to be expected."""
    if full:
        return [f"{miss.reason}  [{miss.path or miss.weight}]" for miss in misses]
    groups = _grouped([miss for miss in misses if not miss.expected], lambda miss: miss.reason)
    lines = [_miss_line(reason, group) for reason, group in groups[:MOST_MISSES]]
    if more := groups[MOST_MISSES:]:
        weights = sum(len(group) for _, group in more)
        lines.append(f"{counted(weights, 'miss')} for other reasons: report.text(full=True) lists them")
    expected = sum(miss.expected for miss in misses)
    if expected:
        lines.append(f"{counted(expected, 'projection')} of attention: expected, nothing is skipped there")
    return lines


def _miss_line(reason: str, group: Sequence[Miss]) -> str:
    times = f"  ({len(group)} times)" if len(group) > 1 else ""
    return f"{reason}  [{group[0].path or group[0].weight}]{times}"


# --------------------------------------------------------------------------- sites and words


def _what(site: Site) -> str:
    what = site.activation or "+".join(site.consumers)
    what += f" after an explicit {site.selection}" if site.selection else ""
    loop = f" ×{site.repeat}" if site.repeat > 1 else ""
    devices = f" on each of {site.devices} devices" if site.devices > 1 else ""
    gate = "gated " if site.gated else ""
    dtype = f"{site.dtype} as {site.computed}" if site.computed else site.dtype
    return f"{gate}{what} {site.d}→{site.width} {dtype} batch {site.batch}{loop}{devices}"


def _site_lines(sites: Iterable[Site]) -> list[tuple[str, str]]:
    """Kind and text of every sort of site, with the first and last place where it stands."""
    groups = _grouped(sites, lambda site: (site.kind, _what(site)))
    return [(kind, f"{what}{_places([site.path for site in group])}") for (kind, what), group in groups]


def _places(paths: Sequence[str]) -> str:
    different = list(dict.fromkeys(path for path in paths if path))
    where = f"  [{' … '.join(dict.fromkeys((different[0], different[-1])))}]" if different else ""
    return where + (f"  ({len(paths)} times)" if len(paths) > 1 else "")


def _names(ids: Iterable[str]) -> str:
    """``ffn/0``, ``ffn/0, ffn/1``, ``ffn/0 … ffn/23 (24 sites)``."""
    names = list(ids)
    return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]} ({len(names)} sites)"


def _time(found: Findings, full: bool) -> list[str]:
    known = found.seconds.items() if full else split_seconds(found.seconds)
    return [", ".join(f"{what} {seconds:.2f} s" for what, seconds in known)] * bool(found.seconds)


Key = TypeVar("Key", bound=Hashable)


def _grouped(items: Iterable[T], key: Callable[[T], Key]) -> list[tuple[Key, list[T]]]:
    """Items by what they have in common, in the order of the first of each."""
    groups: dict[Key, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())
