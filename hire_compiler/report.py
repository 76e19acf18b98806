"""What was found, what was decided and why: plain frozen data, printed as text or JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Site:
    """A dense computation that could be made sparse.

    Attributes:
      id: stable name, ``ffn/0`` or ``head/0``, counted in program order.
      kind: ``"ffn"`` or ``"head"``.
      path: the model's own scope path, from the locations of the graph.
      activation: of a feed-forward (``relu``, ``silu`` …); None for a head.
      gated: feed-forward with a gate (GLU) beside the up-projection.
      selection: an explicit choice of neurons that the model makes itself: ``top_k``, ``group_topk``,
        ``statistical_top_k``, or ''.
      consumers: of a head: what reads the logits (``argmax``, ``top_k``, ``softmax`` … ``returned``).
      batch: rows of the input that the site sees in one call.
      d: width of the input.
      width: neurons of a feed-forward, vocabulary rows of a head.
      dtype: storage type of the weight.
      repeat: trip count when the site stands in a loop over layers, else 1.
      weights: names of the arguments that hold the weights.
      devices: inside a ``shard_map`` or ``pmap``, on how many devices each with sizes of its own; else 1.
    """

    id: str
    kind: str
    path: str
    activation: str | None = None
    gated: bool = False
    selection: str = ""
    consumers: tuple[str, ...] = ()
    batch: int
    d: int
    width: int
    dtype: str
    repeat: int = 1
    weights: tuple[str, ...] = ()
    devices: int = 1


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A matrix product with a weight that is no site, and the deepest reason why not."""

    path: str
    reason: str
    weight: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the plan does with one site.

    Attributes:
      site: id of the site.
      action: ``"rewritten"`` or ``"dense"``.
      reason: why, in a sentence.
      predictor: printed form of the predictor, '' if dense.
      candidates: rows computed exactly in one call (of ``Site.width``).
      group: adjacent rows chosen together.
      common: how many of the candidates are neurons that every call computes.
      recall: on calibration rows, the share of the active neurons that was among the candidates; None if not measured.
      error: on the same rows, the error of the block's output relative to its size (root mean squares).
      union: by size of group, the share of all groups that calibration saw one call touch.
      tail: of a head whose full logits are consumed, else ''.
      dense_bytes, sparse_bytes: weight bytes read in one call, before and after (per trip of a loop).
      added_bytes: memory that the predictor and re-laid-out rows add.
      exactness: ``"exact"``, or how the answer may differ.
      shards: into how many parts the rows are split, each choosing by itself; candidates are those of all shards,
        bytes those of one device.
      shard_recall: expected share of the rule's candidates among those, under random placement of the rows.
    """

    site: str
    action: str
    reason: str
    predictor: str = ""
    candidates: int = 0
    group: int = 1
    common: int = 0
    recall: float | None = None
    error: float | None = None
    union: tuple[tuple[int, float], ...] = ()
    tail: str = ""
    dense_bytes: int = 0
    sparse_bytes: int = 0
    added_bytes: int = 0
    exactness: str = "exact"
    shards: int = 1
    shard_recall: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How often the proof of a certified site held so far.

    Attributes:
      site: id of the site.
      rows: batch rows seen.
      proven: rows whose winners were proven; for the others the dense product ran.
      slack: the largest τ of any row: how far the float32 sums (and the storage of the logits) may be from the real
        numbers; values that differ by less may change places unless the certificate is strict.
    """

    site: str
    rows: int
    proven: int
    slack: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TailError:
    """How wrong the predicted logits of a site were so far, seen on the candidates, where the exact ones are known.

    Attributes:
      site: id of the site.
      rows: batch rows seen.
      rms, largest: of the difference between predicted and exact logits.
    """

    site: str
    rows: int
    rms: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the rewritten program was beside the author's: the short form of a comparison.

    Attributes:
      machine: where they ran, or are estimated for.
      estimated: by what, where nothing was measured; else ''.
      calls: timed calls of each.
      written_ms, rewritten_ms: a call, medians.
      low_ms, high_ms: between which the middle half of the rewritten program's calls lies.
      outputs: how the results differed, in words.
    """

    machine: str
    estimated: str = ""
    calls: int
    written_ms: float
    rewritten_ms: float
    low_ms: float
    high_ms: float
    outputs: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the compiler can say about one program."""

    sites: tuple[Site, ...] = ()
    misses: tuple[Miss, ...] = ()
    decisions: tuple[Decision, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    tails: tuple[TailError, ...] = ()
    notes: tuple[str, ...] = ()
    speed: Speed | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rewritten(self) -> tuple[Decision, ...]:
        """The decisions that change the program."""
        return tuple(d for d in self.decisions if d.action == "rewritten")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        lines = [self._headline()]
        lines += _grouped(self._site_lines())
        lines += [f"  miss  {line}" for line in _miss_lines(self.misses)]
        lines += [f"  proof {_certificate_line(c)}" for c in self.certificates]
        lines += [f"  tail  {_tail_line(t)}" for t in self.tails]
        lines += [f"  note  {note}" for note in self.notes]
        if self.seconds:
            spent = ", ".join(f"{stage} {s:.2f} s" for stage, s in self.seconds.items())
            lines.append(f"  time  {spent}")
        return "\n".join(lines)

    def _headline(self) -> str:
        trips = sum(site.repeat for site in self.sites)
        counted = (
            f"{len(self.sites)} sites" if trips == len(self.sites) else f"{len(self.sites)} sites ({trips} with loops)"
        )
        return f"hire_compiler: {counted}, {len(self.rewritten)} rewritten, {len(self.misses)} misses"

    def _site_lines(self) -> list[str]:
        decisions = {d.site: d for d in self.decisions}
        return [_site_line(site, decisions.get(site.id)) for site in self.sites]


def answer_of(decision: Decision) -> str:
    """What the answer of a site is worth: ``exact``, ``certified``, ``approximate``, or ``dense`` as written."""
    if decision.action != "rewritten":
        return "dense"
    return next((word for word in ("exact", "certified") if decision.exactness.startswith(word)), "approximate")


def counted(n: int, word: str) -> str:
    """``1 site``, ``2 sites``, ``3 misses``."""
    return f"{n} {word}{'' if n == 1 else 'es' if word.endswith('s') else 's'}"


def report_of(content: Mapping[str, Any]) -> Report:
    """A report out of :meth:`Report.to_dict`, also of one that an earlier version wrote."""
    kinds: dict[str, Any] = {
        "sites": Site,
        "misses": Miss,
        "decisions": Decision,
        "certificates": Certificate,
        "tails": TailError,
    }
    lists = {name: tuple(_entry(kind, entry) for entry in content.get(name, ())) for name, kind in kinds.items()}
    speed = content.get("speed")
    return Report(
        **lists,
        notes=tuple(content.get("notes", ())),
        speed=_entry(Speed, speed) if speed else None,
        seconds=dict(content.get("seconds", {})),
    )


def _entry(kind: Any, content: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{name: _frozen(value) for name, value in content.items() if name in known})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


def bytes_read(report: Report, proofs: Sequence[Certificate] = ()) -> tuple[int, int]:
    """Weight bytes that all sites read in one call, as written and rewritten; all trips of loops counted.

    Args:
      report: of the program.
      proofs: how often each proof held; where one did not, the dense branch read its weights as well.
    """
    repeats = {site.id: site.repeat for site in report.sites}
    failed = {proof.site: 1 - proof.proven / max(proof.rows, 1) for proof in proofs}
    dense = sum(d.dense_bytes * repeats[d.site] for d in report.decisions)
    extra = sum(failed.get(d.site, 0.0) * d.dense_bytes * repeats[d.site] for d in report.rewritten)
    return dense, round(sum(d.sparse_bytes * repeats[d.site] for d in report.decisions) + extra)


def _site_line(site: Site, decision: Decision | None) -> str:
    what = site.activation or "+".join(site.consumers)
    gate = "gated " if site.gated else ""
    loop = f" ×{site.repeat}" if site.repeat > 1 else ""
    what += f" after an explicit {site.selection}" if site.selection else ""
    shape = f"{site.d}→{site.width} {site.dtype} batch {site.batch}{loop}"
    shape += f" on each of {site.devices} devices" if site.devices > 1 else ""
    head = f"  {site.kind:<5} {gate}{what} {shape}"
    if decision is None:
        return f"{head}  [{site.path}]" if site.path else head
    if decision.action == "dense":
        return f"{head}\n        left dense: {decision.reason}"
    saved = f"{_megabytes(decision.dense_bytes)} → {_megabytes(decision.sparse_bytes)} read a call"
    tail = f", tail {decision.tail}" if decision.tail else ""
    return (
        f"{head}\n        rewritten: {decision.predictor}, {decision.candidates} of {site.width} rows exact"
        f"{f' in groups of {decision.group}' if decision.group > 1 else ''}{_common_text(decision)}{tail}; {saved}, "
        f"{_megabytes(decision.added_bytes)} added; {decision.exactness}"
        f"{_loss_text(decision)}{_shard_text(decision)}{_union_text(decision)}"
    )


def _common_text(decision: Decision) -> str:
    return f", {decision.common} of them always (common path)" if decision.common else ""


def _loss_text(decision: Decision) -> str:
    if decision.recall is None or decision.error is None:
        return ""
    return f"; measured on calibration rows: recall {decision.recall:.2%}, output off by {decision.error:.2%}"


def _union_text(decision: Decision) -> str:
    """What share of all groups a call touches, for the sizes that tell most."""
    shown = [(g, share) for g, share in decision.union if g in (1, 8, 32, 128, decision.group)]
    if not shown:
        return ""
    shares = ", ".join(f"{share:.1%} of {f'all groups of {g}' if g > 1 else 'neurons'}" for g, share in shown)
    return f"\n        calibrated: a call touches {shares}"


def _shard_text(decision: Decision) -> str:
    if decision.shards == 1:
        return ""
    kept = decision.candidates // decision.shards
    recall = f", expected to hold {decision.shard_recall:.2%} of the best" if decision.predictor != "Exact()" else ""
    return f"; {decision.shards} shards choose {kept} rows each{recall}; bytes are one device's"


def _miss_lines(misses: tuple[Miss, ...]) -> list[str]:
    """One line a reason, with the first place where it holds."""
    places: dict[str, list[str]] = {}
    for miss in misses:
        places.setdefault(miss.reason, []).append(miss.path or miss.weight)
    return [
        f"{reason}  [{where[0]}]" + (f"  ({len(where)} times)" if len(where) > 1 else "")
        for reason, where in places.items()
    ]


def _certificate_line(certificate: Certificate) -> str:
    if not certificate.rows:
        return f"{certificate.site}: no call yet"
    share = certificate.proven / certificate.rows
    slack = f", slack τ ≤ {certificate.slack:.2g}" if certificate.slack else ""
    return f"{certificate.site}: held for {certificate.proven} of {certificate.rows} rows ({share:.2%}){slack}"


def _tail_line(tail: TailError) -> str:
    if not tail.rows:
        return f"{tail.site}: no call yet"
    return f"{tail.site}: predicted logits were off by {tail.rms:.2g} (rms), {tail.largest:.2g} at most"


def _grouped(lines: Any) -> list[str]:
    counts = Counter(lines)
    return [line if n == 1 else _with_count(line, n) for line, n in counts.items()]


def _with_count(line: str, n: int) -> str:
    first, *rest = line.split("\n")
    return "\n".join([f"{first}  ({n} times)", *rest])


def _megabytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
