"""Detect: read-only and total. Every product with a weight ends as part of a site, or as a miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hire_compiler.graph import Graph, Op, Value
from hire_compiler.patterns.dots import WeightDot, read_weight_dot
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
            reasons[op] = no
            continue
        matched.append((op, ffn))
        used |= {op, *(dot.op for dot in ffn.products)}
    for op in dots:
        if op in used:
            continue
        try:
            matched.append((op, match_head(op, provenance, reader)))
            used.add(op)
        except NoMatch as no:
            if no.depth >= reasons[op].depth:
                reasons[op] = no
    order = {op: position for position, op in enumerate(dots)}
    matched.sort(key=lambda pair: order[pair[0]])
    misses = [_miss(op, reasons[op], provenance) for op in dots if op not in used]
    return Detection(
        sites=_number([_site(match) for _, match in matched]),
        matches=tuple(match for _, match in matched),
        misses=tuple(miss for miss in misses if miss is not None),
    )


def _site(match: Match) -> Site:
    if isinstance(match, FfnMatch):
        return Site(
            id="",
            kind="ffn",
            path=match.down.op.scope,
            activation=match.activation.name,
            gated=len(match.products) == 2,
            batch=match.down.batch,
            d=match.products[0].d,
            width=match.down.d,
            dtype=match.down.weight.dtype,
            repeat=_trip_count(match.layer, match.down.weight.layers),
            weights=tuple(w.name for w in (*match.matrices, match.down.weight)),
        )
    dot = match.dot
    return Site(
        id="",
        kind="head",
        path=dot.op.scope,
        consumers=match.consumers,
        batch=dot.batch,
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


def _trip_count(counter: Value | None, layers: int | None) -> int:
    """Trips of the loop that picks the layers: its bound where it is a constant, else the stack's length."""
    if counter is None or layers is None:
        return 1
    return layers


def _miss(op: Op, no: NoMatch, provenance: Provenance) -> Miss | None:
    weight = _weight_name(op, provenance)
    if weight is None:
        return None  # activations times activations: attention, never a candidate
    return Miss(path=op.scope, reason=no.reason, weight=weight)


def _weight_name(op: Op, provenance: Provenance) -> str | None:
    for operand in op.operands:
        if provenance.is_weight(operand):
            return provenance.weight(operand).weight.name
    return None


__all__ = ["Detection", "Match", "WeightDot", "detect", "read_weight_dot"]
