"""Detect: read-only and total. Every product with a weight ends as part of a site, or as a miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hire_compiler.graph import Graph, Op
from hire_compiler.patterns.computed import computed_weight
from hire_compiler.patterns.counters import Counters
from hire_compiler.patterns.dots import contracted_size
from hire_compiler.patterns.ffn import FfnMatch, match_ffn
from hire_compiler.patterns.logits import HeadMatch, match_head
from hire_compiler.patterns.match import NoMatch
from hire_compiler.patterns.provenance import Provenance
from hire_compiler.patterns.region import RegionReader
from hire_compiler.program import Argument
from hire_compiler.report import Miss, Site

Match = FfnMatch | HeadMatch


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found: a match for every site, in the same order, and the misses."""

    sites: tuple[Site, ...]
    matches: tuple[Match, ...]
    misses: tuple[Miss, ...]


def detect(graph: Graph, arguments: Sequence[Argument]) -> Detection:
    """Find every feed-forward block and LM head of a normalized graph."""
    provenance = Provenance(arguments)
    reader = RegionReader(provenance)
    matched: list[tuple[Op, Match]] = []
    reasons: dict[Op, NoMatch] = {}
    used: set[Op] = set()
    dots = [op for op in graph.ops() if op.name == "dot_general"]
    for op in dots:
        try:
            ffn = match_ffn(op, provenance, reader)
        except NoMatch as no:
            reasons[op] = _deeper(reasons.get(op), no)
            for product in no.involved:
                reasons[product] = _deeper(reasons.get(product), no)
            continue
        matched.append((op, ffn))
        used |= {op, *(dot.op for dot in ffn.products)}
    for op in dots:
        if op in used or reasons[op].final:
            continue
        try:
            matched.append((op, match_head(op, provenance, reader)))
            used.add(op)
        except NoMatch as no:
            reasons[op] = _deeper(reasons[op], no)
    order = {op: position for position, op in enumerate(dots)}
    matched.sort(key=lambda pair: order[pair[0]])
    misses = [_miss(op, reasons[op], provenance) for op in dots if op not in used]
    return Detection(
        sites=_number([_site(match, provenance.counters) for _, match in matched]),
        matches=tuple(match for _, match in matched),
        misses=tuple(miss for miss in misses if miss is not None),
    )


def _site(match: Match, counters: Counters) -> Site:
    if isinstance(match, FfnMatch):
        return Site(
            id="",
            kind="ffn",
            path=match.down.op.scope,
            activation=match.activation.name,
            gated=len(match.products) == 2,
            selection=match.activation.selection,
            batch=match.down.batch,
            d=match.products[0].d,
            width=match.down.d,
            dtype=match.down.weight.dtype,
            repeat=_trip_count(match, counters),
            weights=tuple(w.name for w in (*match.matrices, match.down.weight)),
        )
    dot = match.dot
    return Site(
        id="",
        kind="head",
        path=dot.op.scope,
        consumers=match.consumers,
        batch=len(match.rows),
        d=dot.d,
        width=dot.rows,
        dtype=dot.weight.dtype,
        weights=(dot.weight.name,),
    )


def _number(sites: list[Site]) -> tuple[Site, ...]:
    counts = {"ffn": 0, "head": 0}
    numbered = []
    for site in sites:
        numbered.append(Site(**{**site.__dict__, "id": f"{site.kind}/{counts[site.kind]}"}))
        counts[site.kind] += 1
    return tuple(numbered)


def _deeper(known: NoMatch | None, new: NoMatch) -> NoMatch:
    """The reason of the attempt that came further; of two alike, the later one."""
    return new if known is None or new.depth >= known.depth else known


def _trip_count(match: FfnMatch, counters: Counters) -> int:
    """How often the loop over layers runs: the trips of its counter, else as often as there are layers."""
    layers = match.down.weight.layers
    if match.layer is None or layers is None:
        return 1
    places = counters.values(match.layer)
    if places is not None:
        return len(places)
    return layers if _in_loop(match.down.op) else 1  # outside of a loop, one layer picked by an argument


def _in_loop(op: Op) -> bool:
    owner = op.block.owner
    return owner is not None and (owner.name == "while" or _in_loop(owner))


def _miss(op: Op, no: NoMatch, provenance: Provenance) -> Miss | None:
    if contracted_size(op) == 1:
        return None  # an elementwise product that an einsum spelled as a dot
    weights = [operand for operand in op.operands if provenance.is_weight(operand)]
    known = max(weights, key=lambda operand: operand.size, default=None)
    computed = computed_weight(op, provenance)
    if computed is not None and (known is None or computed[0].size > known.size):
        _, name, why = computed
        return Miss(path=op.scope, reason=f"its weight is no parameter as it stands: {why}", weight=name)
    if known is None:
        return None  # activations times activations: attention, never a candidate
    return Miss(path=op.scope, reason=no.reason, weight=provenance.weight(known).weight.name)
