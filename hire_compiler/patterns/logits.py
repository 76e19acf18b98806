"""The output matrix (LM head) and whatever reads its logits.

::

    x ── dot(w_head) ── [scale, bias, softcap, convert, reshape, last position] ── logits
    logits ── argmax | top_k | softmax | log_softmax | sort | sampling | returned      (one or several)

Found from the product forwards: the logits are followed through everything that keeps one number per
vocabulary row until something reads them. When only winners are read (argmax, top_k), the elementwise code
on the way is captured too, so that it can be repeated on the candidates alone.

Deliberately not matched: products whose result is contracted again (attention, one-hot lookups, experts'
outputs), routers with fewer rows than inputs, fused projections that are cut into parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hire_compiler.expression import Expression
from hire_compiler.graph import Block, Op, Value
from hire_compiler.monotone import is_decreasing
from hire_compiler.patterns.canonical import Outside, Region
from hire_compiler.patterns.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.layout import LAYOUT
from hire_compiler.patterns.match import NoMatch
from hire_compiler.patterns.provenance import Provenance
from hire_compiler.patterns.readers import Readers
from hire_compiler.patterns.region import RegionReader
from hire_compiler.patterns.tail import TailReader

LOGIT_READERS = frozenset({
    "argmax", "top_k", "approx_top_k", "beam_search", "softmax", "log_softmax", "sort", "sampling", "returned",
})  # fmt: skip

MINIMUM_INPUTS = 4
MINIMUM_ROWS = 1024  # fewer rows that are merely returned are features, not a vocabulary


@dataclass(frozen=True, eq=False)
class Winner:
    """A reader of the logits that keeps only the best: ``argmax``, ``top_k``, or ``max`` beside one of these.

    Attributes:
      kind: which of them.
      op: the operation; a rewrite replaces its results.
      region: from the product to what it reads (before any noise), in coordinates ``[batch, vocabulary]``.
      k: how many are kept.
      noise: what is added to that before the best is taken (Gumbel-max sampling), of the same shape; or None.
    """

    kind: str
    op: Op
    region: Region
    k: int
    noise: Value | None = None

    @property
    def width(self) -> int:
        """How many rows of the vocabulary it compares, from the first; the rest is padding."""
        return len(self.region.streams[0][1])

    @property
    def compared(self) -> Expression:
        """From the product, the region's parameters and the noise, if there is any, to what is compared."""
        code = self.region.expression
        return code if self.noise is None else code.plus_input(self.op.operands[0].dtype)


@dataclass(frozen=True, eq=False)
class HeadMatch:
    """An LM head, captured.

    Attributes:
      dot: the product.
      logits: what a rewrite replaces when full logits are read: the product's result, or the part of its batch rows
        that is all that anybody reads (the last position of a prompt).
      rows: which batch rows of the product are read, int ``[r]``.
      consumers: names of the readers.
      winners: the readers, when all of them keep only the best; those of the same values together; else empty.
      compared: from the product to what its readers compare, in coordinates ``[batch, vocabulary]``; without
        repetitions, and without those that are not elementwise.
    """

    dot: WeightDot
    logits: Value
    rows: np.ndarray
    consumers: tuple[str, ...]
    winners: tuple[Winner, ...]
    compared: tuple[Region, ...] = ()


def match_head(op: Op, provenance: Provenance, reader: RegionReader) -> HeadMatch:
    """Match the head that begins with the product ``op``.

    Raises:
      NoMatch: with the reason.
    """
    dot = read_weight_dot(op, provenance)
    rows, d = dot.rows, dot.d
    readers = Readers(dot)
    chosen_from = bool(readers.winners)  # who takes the best of all rows reads logits, whatever else is done with them
    if readers.contracted is not None and not chosen_from:
        raise NoMatch(f"its result goes into another product ({_where(readers.contracted)})", depth=1)
    narrow = f"its {rows} rows are no more than its {d} inputs: a projection, no vocabulary"
    if rows <= d and not chosen_from:
        raise NoMatch(narrow, depth=1)
    if readers.cut is not None and not chosen_from:
        raise NoMatch(f"its {rows} rows are cut into parts (a fused projection)", depth=1)
    kinds = readers.kinds | ({"part"} if readers.cut else set()) | ({"product"} if readers.contracted else set())
    if not kinds & LOGIT_READERS:
        raise NoMatch(f"its result is not read as logits ({_names(kinds)})", depth=1)
    if d < MINIMUM_INPUTS:
        raise NoMatch(f"it contracts {d} numbers only (a table of positions or frequencies?)", depth=2)
    if rows <= d:
        raise NoMatch(narrow, depth=1)
    if kinds <= {"returned", "stored", "beam_search"} and (rows < 2 * d or rows < MINIMUM_ROWS):
        raise NoMatch(f"its {rows} rows for {d} inputs are returned but are no vocabulary", depth=2)
    if dot.weight.layers is not None:
        raise NoMatch("it stands in a loop over layers, or over a vocabulary in blocks", depth=2)
    winners = _winners(readers, reader, dot, provenance) if kinds <= {"argmax", "top_k", "sampling", "max"} else ()
    logits, read = _part_that_is_read(reader, dot)
    return HeadMatch(
        dot,
        logits,
        winners[0].region.batch_rows if winners else read,
        tuple(sorted(kinds)),
        winners,
        _compared(readers, reader, dot),
    )


def _part_that_is_read(reader: RegionReader, dot: WeightDot) -> tuple[Value, np.ndarray]:
    """The smallest part of the product's batch rows through which everything reads it, and which rows those are."""
    best, rows = dot.result, np.arange(dot.batch)
    value = dot.result
    while len(value.uses) == 1 and value.uses[0][0].name in LAYOUT:
        value = value.uses[0][0].result
        if value.size >= best.size or value.shape[-1:] != (dot.rows,):
            continue
        try:
            region = reader.read(value, (len(value.shape) - 1,))
        except NoMatch:
            break
        if not np.array_equal(region.streams[0][1], np.arange(dot.rows)):
            break
        best, rows = value, region.batch_rows
    return best, rows


def _winners(readers: Readers, reader: RegionReader, dot: WeightDot, provenance: Provenance) -> tuple[Winner, ...]:
    winners: list[Winner] = []
    tails: TailReader | None = None
    for kind, op, axis in readers.winners:
        value = op.operands[0]
        bare, noise = _without_noise(value, readers) if readers.is_noisy(value) else (value, None)
        region = _tail(reader, bare, axis, dot)
        if region is None:
            tails = TailReader(provenance, readers.follows) if tails is None else tails
            region, noise = _tail(tails, value, axis, dot), None
        if region is None or axis != len(value.shape) - 1:
            return ()
        k = op.results[0].shape[-1] if kind == "top_k" else 1
        if noise is not None and not np.array_equal(region.batch_rows, np.arange(len(region.batch_rows))):
            return ()
        winners.append(Winner(kind, op, region, k, noise))
    together = len({id(winner.op.block) for winner in winners}) == 1
    alike = all(np.array_equal(winner.region.batch_rows, winners[0].region.batch_rows) for winner in winners)
    if not (together and alike):
        return ()
    in_order = tuple(winner for group in grouped(winners) for winner in group)
    return in_order if replaced_before(in_order) is not None else ()


def grouped(winners: Sequence[Winner]) -> list[list[Winner]]:
    """The winners, those of the same values together: a greedy token and a sampled one are two groups."""
    groups: list[list[Winner]] = []
    for winner in winners:
        known = next((g for g in groups if _same(g[0].region, winner.region) and g[0].noise is winner.noise), None)
        if known is None:
            groups.append([winner])
        else:
            known.append(winner)
    return groups


def replaced_before(winners: Sequence[Winner]) -> Op | None:
    """In front of which operation all winners can be replaced at once: all that they read stands before it.

    Winners of the same values go in front of the first of them. Others need what the last of them reads; None if
    somebody reads one before that.
    """
    first = min((winner.op for winner in winners), key=lambda op: op.position)
    last = max((winner.op for winner in winners), key=lambda op: op.position)
    if len(grouped(winners)) == 1:
        return first
    readers = [op for winner in winners for result in winner.op.results for op, _ in result.uses]
    return last if all(_place(op, first.block) > last.position for op in readers) else None


def _place(op: Op, block: Block) -> int:
    """Where an operation, or the one that holds it, stands in a block; before everything if it does not."""
    while op.block is not block:
        if op.block.owner is None:
            return -1
        op = op.block.owner
    return op.position


def _tail(reader: RegionReader, value: Value, axis: int, dot: WeightDot) -> Region | None:
    """The region from the product to what is compared, if it keeps the vocabulary, or all but padding at its end."""
    try:
        region = reader.read(value, (axis,))
    except NoMatch:
        return None
    if len(region.streams) != 1 or region.givens or region.streams[0][0].op is not dot.op or region.expression.rowwise:
        return None
    rows = region.streams[0][1]
    return region if np.array_equal(rows, np.arange(len(rows))) else None


def _without_noise(value: Value, readers: Readers) -> tuple[Value, Value | None]:
    """The two summands of noisy logits, if that is what they are: the logits, and noise that knows nothing of them."""
    if value.op is None or value.op.name != "add":
        return value, None
    logits = [operand for operand in value.op.operands if readers.follows(operand)]
    noise = [operand for operand in value.op.operands if not readers.follows(operand)]
    return (logits[0], noise[0]) if len(logits) == len(noise) == 1 else (value, None)


def _compared(readers: Readers, reader: RegionReader, dot: WeightDot) -> tuple[Region, ...]:
    found: list[Region] = []
    for value, axis in readers.read:
        try:
            region = reader.read(value, (axis,))
        except NoMatch:
            continue
        if is_decreasing(region.expression) and {op.name for op, _ in value.uses} <= {"sort"}:
            continue  # sorted from the best to the worst: the best are still the largest logits
        whole = len(region.streams) == 1 and np.array_equal(region.streams[0][1], np.arange(dot.rows))
        if whole and not region.expression.rowwise and not any(_same(region, other) for other in found):
            found.append(region)
    return tuple(found)


def _same(one: Region, other: Region) -> bool:
    """Whether two regions compute the same numbers from the logits."""
    captured = len(one.captured) == len(other.captured) and all(map(Outside.same, one.captured, other.captured))
    return (
        captured
        and one.expression == other.expression
        and all(
            a.weight == b.weight and np.array_equal(i, j)
            for (a, i), (b, j) in zip(one.parameters, other.parameters, strict=True)
        )
    )


def _names(kinds: set[str]) -> str:
    return (
        "it is " + ", ".join("stored in a buffer" if kind == "stored" else f"read by {kind}" for kind in sorted(kinds))
        if kinds
        else "nothing reads it"
    )


def _where(op: Op) -> str:
    return op.scope or op.name
