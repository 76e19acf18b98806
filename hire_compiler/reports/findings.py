"""What is found of a program and decided about it, piece by piece: plain frozen data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Site:
    """A dense computation that could be made sparse.

    Attributes:
      id: stable name, ``ffn/0`` or ``head/0``, counted in program order.
      kind: ``"ffn"``, ``"head"`` or ``"experts"``.
      path: the model's own scope path, from the locations of the graph.
      activation: of a feed-forward (``relu``, ``silu`` …); None for a head.
      gated: feed-forward with a gate (GLU) beside the up-projection.
      selection: an explicit choice of neurons that the model makes itself: ``top_k``, ``group_topk``,
        ``statistical_top_k``; or of experts; or ''.
      consumers: of a head: what reads the logits (``argmax``, ``top_k``, ``softmax`` … ``returned``).
      batch: rows of the input that the site sees in one call.
      d: width of the input.
      width: neurons of a feed-forward, vocabulary rows of a head, experts.
      dtype: storage type of the weight.
      computed: of a weight that is stored narrow: the type in which its numbers are computed; else ''.
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
    computed: str = ""
    repeat: int = 1
    weights: tuple[str, ...] = ()
    devices: int = 1


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A matrix product with a weight that is no site, and the deepest reason why not.

    Attributes:
      path: the model's own scope path.
      reason: a sentence.
      weight: name of the argument that holds the weight.
      expected: of a kind that nothing could be skipped of (a projection of attention).
    """

    path: str
    reason: str
    weight: str = ""
    expected: bool = False


@dataclass(frozen=True, kw_only=True)
class Respelled:
    """A product with a weight that stays dense, in another form.

    Attributes:
      path: the model's own scope path.
      weight: name of the argument that holds the weight.
      form: how it is read now.
      nbytes: bytes of the weight that a call reads, all trips of a loop together.
    """

    path: str
    weight: str
    form: str
    nbytes: int


THE_DEFAULT = "the exact default"  # how the reason of a decision begins that no rule took


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the plan does with one site.

    Attributes:
      site: id of the site.
      action: ``"rewritten"`` or ``"dense"``.
      reason: why, in a sentence.
      predictor: printed form of the predictor, '' if dense.
      candidates: rows computed exactly in one call (of ``Site.width``).
      budgets: of an exact block: smaller numbers of neurons, tried first, and the bytes that a call then reads.
      adapted: what was tried first and why it was changed, in words; '' where nothing was.
      group: adjacent rows chosen together.
      common: how many of the candidates are neurons that every call computes.
      recall: on calibration rows, the share of the active neurons that was among the candidates; None if not measured.
      error: on the same rows, the error of the block's output relative to its size (root mean squares).
      union: by size of group, the share of all groups that calibration saw one call touch.
      tail: of a head whose full logits are consumed, else ''.
      dense_bytes, sparse_bytes: weight bytes read in one call, before and after (per trip of a loop).
      failed_bytes: those read in a call whose proof or budget fails.
      added_bytes: memory that the predictor and re-laid-out rows add.
      kept: the type in which rows of float32 are kept and read, where every entry is such a number; else ''.
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
    budgets: tuple[tuple[int, int], ...] = ()
    adapted: str = ""
    group: int = 1
    common: int = 0
    recall: float | None = None
    error: float | None = None
    union: tuple[tuple[int, float], ...] = ()
    tail: str = ""
    dense_bytes: int = 0
    sparse_bytes: int = 0
    failed_bytes: int = 0
    added_bytes: int = 0
    kept: str = ""
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
      ran: of an exact block: how many runs each of its budgets held for, the smaller ones first; behind them, how many
        computed every neuron.
      slack: the largest τ of any row: how far the float32 sums (and the storage of the logits) may be from the real
        numbers; values that differ by less may change places unless the certificate is strict. Rows with norms above
        2⁶⁰ are not counted: they are never proven.
    """

    site: str
    rows: int
    proven: int
    ran: tuple[int, ...] = ()
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
class Findings:
    """Everything that is known of one program.

    Attributes:
      sites, misses: what was found.
      decisions: one a site; none where a program was only inspected.
      respelled: products that stay dense, in a better form.
      certificates, tails: what sites have measured about themselves so far.
      unread: outputs that the caller does not read (``Config.unused``), so that they are NaN.
      notes: what else is worth knowing, a sentence each.
      speed: what the last comparison found, if there was one.
      seconds: that each stage took.
    """

    sites: tuple[Site, ...] = ()
    misses: tuple[Miss, ...] = ()
    decisions: tuple[Decision, ...] = ()
    respelled: tuple[Respelled, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    tails: tuple[TailError, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    speed: Speed | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rewritten(self) -> tuple[Decision, ...]:
        """The decisions that change the program."""
        return tuple(d for d in self.decisions if d.action == "rewritten")


def answer_of(decision: Decision) -> str:
    """What the answer of a site is worth: ``exact``, ``certified``, ``approximate``, or ``dense`` as written."""
    if decision.action != "rewritten":
        return "dense"
    return next((word for word in ("exact", "certified") if decision.exactness.startswith(word)), "approximate")


def counted(n: int, word: str) -> str:
    """``1 site``, ``2 sites``, ``3 misses``."""
    return f"{n} {word}{'' if n == 1 else 'es' if word.endswith('s') else 's'}"


def bytes_read(found: Findings, proofs: Sequence[Certificate] = ()) -> tuple[int, int]:
    """Weight bytes that all sites read in one call, as written and rewritten; all trips of loops counted.

    Args:
      found: of the program.
      proofs: how often each proof held; where one did not, the dense code read its weights as well.
    """
    repeats = {site.id: site.repeat for site in found.sites}
    seen = {proof.site: proof for proof in proofs if proof.rows}
    dense = sum(d.dense_bytes * repeats[d.site] for d in found.decisions)
    return dense, round(sum(_read(d, seen.get(d.site)) * repeats[d.site] for d in found.decisions))


def _read(decision: Decision, proof: Certificate | None) -> float:
    """Bytes that one run of a site reads: as planned, or in the mean of those that were counted."""
    if proof is None or decision.action != "rewritten":
        return decision.sparse_bytes
    failed = 1 - proof.proven / proof.rows
    runs = sum(proof.ran)
    if not runs or len(proof.ran) != len(decision.budgets) + 2:
        return decision.sparse_bytes + failed * _more(decision)
    each = [*(nbytes for _, nbytes in decision.budgets), decision.sparse_bytes, decision.failed_bytes]
    read = sum(times * nbytes for times, nbytes in zip(proof.ran, each, strict=True)) / runs
    doubted = max(failed - proof.ran[-1] / runs, 0.0)  # a budget held, and an order of sums had to decide
    return read + doubted * decision.dense_bytes


def _more(decision: Decision) -> int:
    """Bytes that a failed proof costs; earlier versions did not know that a block has read a part of them already."""
    return decision.failed_bytes - decision.sparse_bytes if decision.failed_bytes else decision.dense_bytes


def split_seconds(seconds: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Seconds of what is done once: rewriting, preparing and compiling, as far as they are known."""
    later = {"prepare": "preparing", "compile": "compiling"}
    rewriting = sum(taken for stage, taken in seconds.items() if stage not in later)
    known = tuple((word, seconds[stage]) for stage, word in later.items() if stage in seconds)
    return (("rewriting", rewriting), *known) if seconds else ()


def megabytes(n: float) -> str:
    """``671.1 MB``, ``8.2 kB``."""
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
