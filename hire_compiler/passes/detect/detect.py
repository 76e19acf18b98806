"""Detect: read-only and total. Every product with a weight ends as part of a site, or as a miss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hire_compiler.capture.program import Argument
from hire_compiler.graph.graph import Graph, Op
from hire_compiler.passes.kinds.kinds import KINDS
from hire_compiler.patterns.misses.explain import Explainer
from hire_compiler.patterns.operations.contractions import is_contraction
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.reports.report import Miss, Site

APART = frozenset({"sdy.manual_computation"})  # one device's program, which is read as a program of its own


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found: a match for every site, in the same order, and the misses with their products."""

    sites: tuple[Site, ...]
    matches: tuple[SiteMatch, ...]
    misses: tuple[Miss, ...]
    missed: tuple[Op, ...] = ()


def detect(graph: Graph, arguments: Sequence[Argument], outputs: Sequence[str] = ()) -> Detection:
    """Find every site of a normalized graph: what one kind leaves, the next may claim.

    Args:
      outputs: how the program's outputs are called.
    """
    provenance = Provenance(arguments, outputs)
    reader = RegionReader(provenance)
    products = [op for op in graph.ops(closed=APART) if is_contraction(op)]
    dots = [op for op in products if op.name == "dot_general"]
    matched: dict[Op, SiteMatch] = {}
    reasons: dict[Op, NoMatch] = {}
    used: set[Op] = set()
    for kind in KINDS.values():
        free = [op for op in dots if op not in used and not (op in reasons and reasons[op].final)]
        for op in free:
            try:
                matched[op] = kind.match(op, provenance, reader)
            except NoMatch as no:
                for product in (op, *no.involved):
                    reasons[product] = _deeper(reasons.get(product), no)
                continue
            used |= {op, *(dot.op for dot in matched[op].products)}
    explainer = Explainer(products, provenance)
    missed = [(op, miss) for op in products if op not in used and (miss := explainer.miss(op, reasons.get(op)))]
    matches = tuple(matched[op] for op in dots if op in matched)
    numbers: Counter[str] = Counter()
    sites = []
    for match in matches:
        sites.append(match.describe(f"{match.kind}/{numbers[match.kind]}", provenance.counters))
        numbers[match.kind] += 1
    return Detection(
        sites=tuple(sites),
        matches=matches,
        misses=tuple(miss for _, miss in missed),
        missed=tuple(op for op, _ in missed),
    )


def _deeper(known: NoMatch | None, new: NoMatch) -> NoMatch:
    """The reason of the attempt that came further; of two alike, the later one."""
    return new if known is None or new.depth >= known.depth else known
