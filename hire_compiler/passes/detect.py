"""Detect: read-only and total. Every product with a weight ends as part of a site, or as a miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hire_compiler.graph import Graph, Op
from hire_compiler.patterns.contractions import is_contraction
from hire_compiler.patterns.counters import Counters
from hire_compiler.patterns.explain import Explainer
from hire_compiler.patterns.ffn import FfnMatch, match_ffn
from hire_compiler.patterns.logits import HeadMatch, match_head
from hire_compiler.patterns.match import NoMatch
from hire_compiler.patterns.provenance import Provenance
from hire_compiler.patterns.region import RegionReader
from hire_compiler.program import Argument
from hire_compiler.report import Miss, Site

Match = FfnMatch | HeadMatch

APART = frozenset({"sdy.manual_computation"})  # one device's program, which is read as a program of its own


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found: a match for every site, in the same order, and the misses with their products."""

    sites: tuple[Site, ...]
    matches: tuple[Match, ...]
    misses: tuple[Miss, ...]
    missed: tuple[Op, ...] = ()


def detect(graph: Graph, arguments: Sequence[Argument]) -> Detection:
    """Find every feed-forward block and LM head of a normalized graph."""
    provenance = Provenance(arguments)
    reader = RegionReader(provenance)
    matched: list[tuple[Op, Match]] = []
    reasons: dict[Op, NoMatch] = {}
    used: set[Op] = set()
    products = [op for op in graph.ops(closed=APART) if is_contraction(op)]
    dots = [op for op in products if op.name == "dot_general"]
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
    explainer = Explainer(products, provenance)
    missed = [(op, miss) for op in products if op not in used and (miss := explainer.miss(op, reasons.get(op)))]
    return Detection(
        sites=_number([_site(match, provenance.counters) for _, match in matched]),
        matches=tuple(match for _, match in matched),
        misses=tuple(miss for _, miss in missed),
        missed=tuple(op for op, _ in missed),
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
