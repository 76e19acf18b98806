"""What every kind of site answers about itself, whatever was captured of it.

A kind of site is a frozen dataclass of captures in this folder that answers these questions, and a row of
``passes/kinds/kinds.py`` that says what each stage does with it. No stage asks which kind it has before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol, TypeVar, cast

import numpy as np

from hire_compiler.graph.weight import Weight
from hire_compiler.patterns.operations.loop_counters import LoopCounters
from hire_compiler.patterns.region.dots import WeightDot
from hire_compiler.patterns.weights.provenance import Origin
from hire_compiler.reports.report import Site

Vector = tuple[Origin, np.ndarray]  # a parameter with one entry a row, and the position of every row's entry


class SiteMatch(Protocol):
    """A site, captured.

    Attributes:
      kind: its row of ``passes/kinds/kinds.py``.
    """

    kind: ClassVar[str]

    @property
    def products(self) -> tuple[WeightDot, ...]:
        """The products that read the site's input, at least one."""

    @property
    def ranked(self) -> WeightDot:
        """The one of them whose rows are ranked: a predictor stands for it."""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All matrices, one row for each neuron or vocabulary entry."""

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The parameters that enter between the products, or behind the last."""

    @property
    def neuron_key(self) -> str:
        """Under which name a calibration counts how often its neurons are active; '' if it has none."""

    @property
    def winner_key(self) -> str:
        """Under which name a calibration counts how often its rows win; '' if they cannot."""

    def describe(self, site_id: str, counters: LoopCounters) -> Site:
        """Its line of the report."""


M = TypeVar("M", bound=SiteMatch)


def of_kind(matches: Iterable[SiteMatch], kind: type[M]) -> list[M]:
    """The matches of one kind, for what is about that kind alone."""
    return [cast(M, match) for match in matches if match.kind == kind.kind]


def moment_key(match: SiteMatch) -> str:
    """Under which name a calibration keeps the second moment of the site's input."""
    weight = match.ranked.weight
    return f"{weight.name}[{weight.shape[1]}]"


def computed_type(weight: Weight) -> str:
    """In which type a weight is computed that is stored narrow; '' for one that is read as it is."""
    return "" if weight.stored == weight.dtype else weight.dtype


def stack_of(match: SiteMatch) -> tuple[int, ...]:
    """The leading dimension of what is learned of a stacked site, ``(layers,)``; else ``()``."""
    layers = match.ranked.weight.layers
    return () if layers is None else (layers,)


def trips(dot: WeightDot, counters: LoopCounters) -> int:
    """How often a product runs in a loop over layers: the trips of its counter, else as often as there are layers."""
    layers = dot.weight.layers
    if dot.layer is None or layers is None:
        return 1
    places = counters.values(dot.layer)
    if places is not None:
        return len(places)
    return layers if dot.op.in_loop else 1  # outside of a loop, one layer picked by an argument
