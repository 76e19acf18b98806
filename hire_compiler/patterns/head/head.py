"""The output matrix (LM head) and whatever reads its logits.

::

    x ── dot(w_head) ── [scale, bias, softcap, convert, reshape, last position] ── logits
    logits ── argmax | top_k | softmax | log_softmax | sort | sampling | returned      (one or several)

Found from the product forwards: the logits are followed through everything that keeps one number per
vocabulary row until something reads them. When only winners are read (argmax, top_k), the elementwise code
on the way is captured too, so that it can be repeated on the candidates alone.

Deliberately not matched: products whose result is contracted again (attention, one-hot lookups, experts'
outputs), routers with fewer rows than inputs, fused projections that are cut into parts, low-rank adapters beside a
head (what they add is one more number of every logit, known whole).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Weight
from hire_compiler.patterns.head.readers import Readers
from hire_compiler.patterns.head.tail import TailReader
from hire_compiler.patterns.head.winners import Winner, grouped, replaced_before, same_values
from hire_compiler.patterns.misses.neighbours import is_chosen_among, is_from_product
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.leaving import goes_on
from hire_compiler.patterns.operations.loop_counters import LoopCounters
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.operations.reducers import position_of
from hire_compiler.patterns.region.adapters import is_adapter
from hire_compiler.patterns.region.canonical import Region
from hire_compiler.patterns.region.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.site_match import Vector, computed_type, moment_key
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.proofs.monotone import is_decreasing
from hire_compiler.reports.report import Site
from hire_compiler.tails.find import NoTail, read_tail
from hire_compiler.tails.program import Tail

# Who reads logits beside those who keep only the best of them.
LOGIT_READERS = frozenset({
    "approx_top_k", "beam_search", "softmax", "log_softmax", "sort", "returned", "position",
})  # fmt: skip

MINIMUM_INPUTS = 4
MINIMUM_ROWS = 1024  # fewer rows that are merely returned are features, not a vocabulary


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
      tail: the code from its logits to tokens, where it can be followed and there are no such winners, or tokens are
        drawn from these.
      bounded: that code, where it makes numbers too that can be bounded, but not proven.
      blocked: why there is no such tail.
    """

    kind: ClassVar[str] = "head"
    neuron_key: ClassVar[str] = ""

    dot: WeightDot
    logits: Value
    rows: np.ndarray
    consumers: tuple[str, ...]
    winners: tuple[Winner, ...]
    compared: tuple[Region, ...] = ()
    tail: Tail | None = None
    bounded: Tail | None = None
    blocked: str = ""

    @property
    def products(self) -> tuple[WeightDot, ...]:
        """Its one product."""
        return (self.dot,)

    @property
    def ranked(self) -> WeightDot:
        """Its one product."""
        return self.dot

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The matrix, one row for each entry of the vocabulary."""
        return (self.dot.weight,)

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """Biases and masks between the product and what is compared."""
        regions = [winner.region for winner in self.winners] or list(self.compared)
        return tuple(parameter for region in regions for parameter in region.parameters)

    def tail_of(self, logprobs: str) -> Tail | None:
        """The code to its tokens; to bounded numbers too where a rule says that they may be (``Rule.logprobs``)."""
        return self.bounded if self.tail is None and logprobs == "bounded" else self.tail

    @property
    def heads(self) -> int:
        """How many heads there are in its one array; each has so many rows fewer."""
        tail = self.tail_of("bounded")
        return 1 if tail is None else self.dot.rows // tail.width

    @property
    def winner_key(self) -> str:
        """As of its second moment."""
        return moment_key(self)

    def describe(self, site_id: str, counters: LoopCounters) -> Site:
        """Its line of the report."""
        return Site(
            id=site_id,
            kind=self.kind,
            path=self.dot.op.scope,
            consumers=self.consumers,
            batch=len(self.rows),
            d=self.dot.d,
            width=self.dot.rows,
            dtype=self.dot.weight.stored,
            computed=computed_type(self.dot.weight),
            weights=(self.dot.weight.name,),
        )


def match_head(op: Op, provenance: Provenance, reader: RegionReader) -> HeadMatch:
    """Match the head that begins with the product ``op``.

    Raises:
      NoMatch: with the reason.
    """
    dot = read_weight_dot(op, provenance)
    rows, d = dot.rows, dot.d
    if is_adapter(op, provenance):
        raise NoMatch(f"a low-rank adapter (rank {d}): what it adds is computed whole", depth=3)
    readers = Readers(dot)
    chosen_from = bool(readers.winners)  # who takes the best of all rows reads logits, whatever else is done with them
    if readers.contracted is not None and not chosen_from:
        raise NoMatch(f"its result goes into another product ({_where(readers.contracted)})", depth=1)
    narrow = f"its {rows} rows are no more than its {d} inputs: a projection, no vocabulary"
    if rows <= d and not chosen_from:
        raise NoMatch(narrow, depth=1)
    if readers.cut is not None and not chosen_from:
        if is_chosen_among(op) and dot.weight.layers is None:
            return _several(dot, readers, provenance)
        raise NoMatch(f"its {rows} rows are cut into parts (a fused projection)", depth=1)
    kinds = readers.kinds | ({"part"} if readers.cut else set()) | ({"product"} if readers.contracted else set())
    if kinds == {"gather"}:
        raise NoMatch("only some of its results are read (gather), at places that are named", depth=2)
    as_logits = chosen_from or bool(kinds & LOGIT_READERS)
    if not as_logits and "all_gather" in kinds:
        raise NoMatch(_JOINED.format("those of other devices (one head in parts)"), depth=2)
    if not as_logits and readers.joined is not None and is_chosen_among(op):
        raise NoMatch(_JOINED.format(_beside(readers)), depth=2)
    if not as_logits:
        raise NoMatch(f"its result is not read as logits ({_names(kinds)})", depth=1)
    if d < MINIMUM_INPUTS:
        raise NoMatch(f"it contracts {d} numbers only (a table of positions or frequencies?)", depth=2)
    if rows <= d:
        raise NoMatch(f"its {rows} rows are no more than its {d} inputs: too few to choose some of them", depth=1)
    if kinds <= {"returned", "stored", "beam_search"} and (rows < 2 * d or rows < MINIMUM_ROWS):
        raise NoMatch(f"its {rows} rows for {d} inputs are returned but are no vocabulary", depth=2)
    if dot.weight.layers is not None:
        raise NoMatch("it stands in a loop over layers, or over a vocabulary in blocks", depth=2)
    winners = _winners(readers, reader, dot, provenance) if kinds <= readers.best else ()
    logits, read = _part_that_is_read(reader, dot)
    compared = any(map(_is_compared_on, winners))
    settled = _only_tokens(winners) and not compared
    axis = readers.axis if logits is readers.logits else len(logits.shape) - 1
    tail, blocked = (None, "") if settled else _tail_of(logits, axis, provenance)
    if winners and tail is not None:
        drawn = not (tail.lists or tail.numbers or tail.doubt)
        tail = tail if drawn and np.array_equal(winners[0].region.batch_rows, read) else None
    if compared and tail is not None:
        winners = ()  # the number of the best has to be that of dense, too: bounds follow it to where it is compared
    numbers = tail is not None and bool(tail.numbers)
    return HeadMatch(
        dot,
        logits,
        winners[0].region.batch_rows if winners else read,
        tuple(sorted(kinds)),
        winners,
        _compared(readers, reader, dot),
        None if numbers else tail,
        tail if numbers else None,
        blocked,
    )


_JOINED = "its results are joined with {}: not followed yet"


def _beside(readers: Readers) -> str:
    """What stands beside the numbers of a product."""
    assert readers.joined is not None
    others = [value for value in readers.joined.operands if not readers.follows(value)]
    if any(map(is_from_product, others)):
        return "those of other products (one head in parts)"
    return "numbers of no product (padding?)" if others else "each other"


def _only_tokens(winners: tuple[Winner, ...]) -> bool:
    """Whether the winners are all that is read; of the best few a token may be drawn, which can be proven by itself."""
    return bool(winners) and all(winner.k == 1 for winner in winners)


def _several(dot: WeightDot, readers: Readers, provenance: Provenance) -> HeadMatch:
    """Several heads in one product: codebooks, tokens ahead. One tail holds the winners of all.

    Raises:
      NoMatch: more than winners are read of some part.
    """
    if readers.axis is None:
        return _in_one_array(dot, provenance)
    tail, blocked = _tail_of(dot.result, readers.axis, provenance)
    if tail is None or tail.numbers:
        several = "the program chooses among each part alone (several heads in one product)"
        raise NoMatch(f"its {dot.rows} rows are cut into parts, and {several}: {blocked}", depth=2)
    return HeadMatch(dot, dot.result, np.arange(dot.batch), ("argmax",), (), (), tail)


def _in_one_array(dot: WeightDot, provenance: Provenance) -> HeadMatch:
    """Several heads stored in one array, ``[heads, rows, d]``, or one that lies there in parts.

    Every row of the batch asks each of them, and what follows may take them for beams of one vocabulary.

    Raises:
      NoMatch: their logits do not lie one vocabulary beside the other, or more than tokens go on from them.
    """
    shape, rows = "×".join(map(str, dot.row_shape)), dot.row_shape[-1]
    said = f"its {dot.rows} rows lie in several dimensions ({shape})"
    if max(dot.row_shape) < MINIMUM_ROWS:
        raise NoMatch(f"{said}: {max(dot.row_shape)} in each are too few rows to choose some of", depth=2)
    if len(dot.row_shape) != 2 or rows < MINIMUM_ROWS:
        raise NoMatch(f"{said}, which are not followed to where the program chooses among them", depth=2)
    tail, blocked = _tail_of(dot.result, 1 if dot.rows_first else len(dot.result.shape) - 1, provenance)
    if tail is None or tail.numbers or tail.mixed:
        blocked = blocked or "what it makes of them needs several at once"
        raise NoMatch(f"{said}, and what is made of their logits cannot be proven: {blocked}", depth=2)
    return HeadMatch(dot, dot.result, np.arange(dot.batch), ("argmax",), (), (), tail)


def _tail_of(logits: Value, axis: int | None, provenance: Provenance) -> tuple[Tail | None, str]:
    """The code behind logits down to the tokens, or why it cannot be followed."""
    if axis is None:
        return None, ""
    try:
        tail = read_tail(logits, axis, provenance.output)
        return tail, tail.blocked
    except NoTail as no:
        return None, str(no)
    except _MISREAD as error:  # an author's program runs, whatever our reading of it comes to
        return None, f"what reads its logits is not understood ({type(error).__name__}: {error})"


# What reading code that nobody foresaw may raise; a machine that fails (memory, a device) is no reason to stay dense.
_MISREAD = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, RecursionError,
    TypeError, ValueError,
)  # fmt: skip


def _is_compared_on(winner: Winner) -> bool:
    """Whether the number of the best, and not its place alone, goes into more code."""
    return winner.kind in ("argmax", "max") and goes_on(winner.op.results[0])


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
        if is_decreasing(region.expression) and all(_looks_for_the_smallest(op) for op, _ in value.uses):
            continue  # the best are still the largest logits
        whole = len(region.streams) == 1 and np.array_equal(region.streams[0][1], np.arange(dot.rows))
        if whole and not region.expression.rowwise and not any(same_values(region, other) for other in found):
            found.append(region)
    return tuple(found)


def _looks_for_the_smallest(op: Op) -> bool:
    """Whether an operation takes the smallest for the best; a sort of what was negated does."""
    return op.name == "sort" or (op.name == "reduce" and position_of(op) == "minimum")


def _names(kinds: set[str]) -> str:
    return (
        "it is " + ", ".join("stored in a buffer" if kind == "stored" else f"read by {kind}" for kind in sorted(kinds))
        if kinds
        else "nothing reads it"
    )


def _where(op: Op) -> str:
    return op.scope or op.name
