"""Dense feed-forward blocks.

::

    x ── dot(w_up) ── [+ bias] ── act ──┐                        plain
                                        ├── h ── dot(w_down) ──
    x ── dot(w_up) ── [+ bias] ─────────┘ (× when gated)         gated: act on one of two products

Found from the *down* product backwards: whatever elementwise code and layout stands between is read as one
region and recognised by its meaning. Both products of a gated block may be one fused dot, cut by slices.

Deliberately not matched: blocks narrower than their input (adapters, small gates) or much narrower than their output
(a layer in front of a head), products batched over
experts, a computed weight, and products with nothing nonlinear between them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.narrow import NarrowWeight
from hire_compiler.graph.weight import Weight
from hire_compiler.patterns.ffn.activations import Activation
from hire_compiler.patterns.ffn.channel_scales import ChannelScale, scaled_rows, split_scales
from hire_compiler.patterns.ffn.quantiser import Quantiser, read_quantiser
from hire_compiler.patterns.ffn.relevance import Relevance, relevance_of
from hire_compiler.patterns.ffn.row_factors import is_row_factor, recognise_without
from hire_compiler.patterns.ffn.sparsity import gate_stages, zero_shares
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.loop_counters import LoopCounters
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.adapters import adapters_beside, is_narrow
from hire_compiler.patterns.region.canonical import Region
from hire_compiler.patterns.region.dots import WeightDot, contracted_size, read_weight_dot
from hire_compiler.patterns.region.region import RegionReader
from hire_compiler.patterns.site_match import Vector, computed_type, trips
from hire_compiler.patterns.weights.narrow_reader import is_narrow_type
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.proofs.zeros import GateStages, NegativeGate, negative_gate
from hire_compiler.reports.report import Site


@dataclass(frozen=True, eq=False)
class FfnMatch:
    """A feed-forward block, captured.

    Attributes:
      down: the second product; its result is what a rewrite replaces.
      products: the dot behind each stream of the region (one dot twice when fused).
      matrices: rows ``[width, d]`` of each stream.
      region: from the streams (and biases) to h.
      activation: what the region computes.
      biases: parameter vectors of the region, one entry per neuron, with their positions.
      scales: of the biases, those that scale a product: the numbers of a quantised weight, behind the product.
      givens: what adapters add, or what scales quantised inputs, with the element of each neuron in each batch row;
        inputs of the region before biases.
      quantiser: what becomes of h before the second product, if that is quantised row by row; the region ends at h.
      beside: products of h like the second one, but narrow: the first ones of adapters on it.
    """

    kind: ClassVar[str] = "ffn"
    winner_key: ClassVar[str] = ""

    down: WeightDot
    products: tuple[WeightDot, ...]
    matrices: tuple[Weight, ...]
    region: Region
    activation: Activation
    biases: tuple[Vector, ...]
    givens: tuple[tuple[Value, np.ndarray], ...] = ()
    quantiser: Quantiser | None = None
    scales: tuple[ChannelScale, ...] = ()
    beside: tuple[WeightDot, ...] = ()

    @property
    def is_adapted(self) -> bool:
        """Whether adapters add to it, or to what it makes."""
        return bool(self.beside) or any(not is_row_factor(index) for _, index in self.givens)

    @property
    def ranked(self) -> WeightDot:
        """The product that the activation is applied to."""
        return self.products[self.activation.gate]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Up (or gate and up), down, and what adapts it; one row a neuron."""
        return (*self.matrices, *(dot.columns for dot in self.last))

    @property
    def last(self) -> tuple[WeightDot, ...]:
        """The second product, and those beside it."""
        return (self.down, *self.beside)

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The biases."""
        return self.biases

    @property
    def neuron_key(self) -> str:
        """The rows of the gate, exactly these and in this order."""
        return self.matrices[self.activation.gate].key

    @property
    def x(self) -> Value:
        """Input of the block."""
        return self.products[0].x

    @property
    def predicted(self) -> Weight:
        """The rows whose products rank the neurons: those of the gate, scaled as its product is."""
        gate = self.activation.gate
        own = [scale for scale in self.scales if scale.stream == gate and scale.vector >= len(self.givens)]
        vectors = [(scale.op, *self.biases[scale.vector - len(self.givens)]) for scale in own]
        scales = [(op, origin.weight, index) for op, origin, index in vectors]
        return scaled_rows(self.matrices[gate], scales) if scales else self.matrices[gate]

    @property
    def row_scales(self) -> tuple[tuple[str, int], ...]:
        """Which of the given values scale the gate's product, one number a batch row, and how."""
        own = [scale for scale in self.scales if scale.stream == self.activation.gate]
        return tuple((scale.op, scale.vector) for scale in own if scale.vector < len(self.givens))

    @property
    def zero_gate(self) -> int:
        """The product that alone proves most neurons zero; where none proves any, that of the activation."""
        shares = self.zero_shares
        return max(range(len(shares)), key=lambda i: (shares[i], i == self.activation.gate))

    @property
    def zero_shares(self) -> tuple[float, ...]:
        """For every product, what share of random neurons it alone proves to be exactly zero."""
        return zero_shares(self.region.expression, len(self.products))

    @property
    def deciding_product(self) -> WeightDot | None:
        """The product that decides which neurons are zero, where a rounding of it may decide: else None.

        Not where the other product is cut from the same dot, or the weight is stored narrow: then the author's own
        product would compute more than is needed.
        """
        dot, rows = self.region.streams[self.zero_gate]
        alone = dot.rows == self.down.d and np.array_equal(rows, np.arange(dot.rows))
        narrow = isinstance(dot.weight, NarrowWeight)
        return dot if self.region.expression.jumps and alone and not narrow else None

    @property
    def gate_stages(self) -> GateStages:
        """The activation, cut into what follows from the gate and the parameters alone, and the rest."""
        return gate_stages(self.region.expression, len(self.products), self.zero_gate)

    @property
    def negative_gate(self) -> NegativeGate:
        """The activation, and where its gate with its bias stands in it."""
        bias = self.activation.gate_bias
        number = None if bias is None else len(self.products) + bias
        return negative_gate(self.region.expression, self.activation.gate, number)

    @property
    def relevance(self) -> Relevance:
        """How much a neuron matters, from its predicted gate."""
        gate, bias, streams = self.activation.gate, self.activation.gate_bias, len(self.products)
        plain, _, kept = split_scales(self.region.expression, streams, frozenset({gate}))
        found = relevance_of(plain, streams, gate, None if bias is None else kept.index(bias))
        return replace(found, reads=tuple(kept[i] for i in found.reads))

    @property
    def layer(self) -> Value | None:
        """Counter of the loop over layers, if the weights are stacked."""
        return self.down.layer

    def describe(self, site_id: str, counters: LoopCounters) -> Site:
        """Its line of the report."""
        return Site(
            id=site_id,
            kind=self.kind,
            path=self.down.op.scope,
            activation=self.activation.name,
            gated=len(self.products) == 2,
            selection=self.activation.selection,
            batch=self.down.batch,
            d=self.products[0].d,
            width=self.down.d,
            dtype=self.down.weight.stored,
            computed=computed_type(self.down.weight),
            repeat=trips(self.down, counters),
            weights=tuple(w.name for w in (*self.matrices, *(dot.weight for dot in self.last))),
        )


def match_ffn(down_op: Op, provenance: Provenance, reader: RegionReader) -> FfnMatch:
    """Match the block that ends in ``down_op``.

    Raises:
      NoMatch: with the reason.
    """
    down = read_weight_dot(down_op, provenance)
    try:
        quantiser = read_quantiser(down, provenance)
        h = down.x if quantiser is None else quantiser.h
        region = reader.read(h, down.x_contracting, adapters=True)
    except NoMatch as no:
        if any(op.result.size > contracted_size(op) * down.batch for op in no.involved):  # it has more rows than inputs
            raise
        # What stands there is no concern of this product: it came in through the residual stream.
        raise NoMatch(no.reason, depth=min(no.depth, 1)) from None
    if _is_residual(region):
        raise NoMatch("its input is a sum of what earlier blocks put out, not one block's neurons")
    try:
        match = _match_region(down, region, quantiser)
    except NoMatch as no:
        # What keeps this product from being a site keeps those before it, too.
        raise NoMatch(no.reason, depth=no.depth, involved=tuple(dot.op for dot in region.products)) from None
    return match if quantiser is not None else replace(match, beside=adapters_beside(down, provenance))


def _match_region(down: WeightDot, region: Region, quantiser: Quantiser | None) -> FfnMatch:
    products = region.products
    _check_same_input(products)
    rows = frozenset(at for at, (_, i) in enumerate(region.givens, start=len(products)) if _masks(i, products[0]))
    if not all(at in rows or _may_be_given(v, products[0]) for at, (v, _) in enumerate(region.givens, len(products))):
        raise NoMatch("a product whose weight is no parameter as it stands enters", depth=3)
    if not np.array_equal(region.batch_rows, np.arange(down.batch)):
        raise NoMatch("its input rows are a reordering or a part of the block's input rows", depth=3)
    plain, scales, kept = split_scales(region.expression, len(products))
    given = [at for at, i in enumerate(kept, len(products)) if i + len(products) in rows]
    activation, left = recognise_without(plain, len(products), given)
    kept = tuple(kept[i - len(products)] for i in left if i >= len(products))
    if activation.gate_bias is not None:
        activation = replace(activation, gate_bias=kept[activation.gate_bias])
    if activation.name == "identity" and len(products) == 1 and not activation.selection:
        raise NoMatch("nothing nonlinear stands between the two products (a low-rank adapter?)", depth=3)
    width, d = down.d, products[0].d
    if width < d:
        raise NoMatch(f"its {width} neurons are fewer than its {d} inputs (an adapter or a small gate)", depth=4)
    if down.rows * 4 < d:
        raise NoMatch(f"it makes {down.rows} numbers of its neurons, of {d} inputs (an adapter on the block)", depth=4)
    if down.rows > 4 * width:
        raise NoMatch(f"it makes {down.rows} numbers of {width} neurons (a head behind a small layer)", depth=3)
    matrices = tuple(_rows(dot, rows) for dot, rows in region.streams)
    if any(weight.key == down.columns.key for weight in matrices):
        raise NoMatch("both products read the same parameter (attention to a memory, not a feed-forward)", depth=4)
    _check_layers(down, products, region)
    return FfnMatch(down, products, matrices, region, activation, region.parameters, region.givens, quantiser, scales)


def _masks(index: np.ndarray, dot: WeightDot) -> bool:
    """Whether a given value is a factor of each batch row; those of quantised inputs are scales of products."""
    return not is_narrow_type(dot.x.dtype) and is_row_factor(index)


def _may_be_given(value: Value, dot: WeightDot) -> bool:
    return is_narrow_type(dot.x.dtype) or is_narrow(value, dot)


def _is_residual(region: Region) -> bool:
    """Whether products are summands of a residual stream: none has more rows than inputs, and they differ in these.

    An embedding that is spelled as a product with one-hot rows begins such a stream, too; a norm follows it.
    """
    products = region.products
    if any(dot.rows > dot.d for dot in products):
        return False
    return region.expression.rowwise or any(dot.x is not products[0].x for dot in products)


def _check_same_input(products: tuple[WeightDot, ...]) -> None:
    first = products[0]
    for other in products[1:]:
        if not ((other.x is first.x and other.x_contracting == first.x_contracting) or _same_rows(first, other)):
            raise NoMatch("the products before it read different inputs (a low-rank adapter beside a weight?)", depth=3)


def _same_rows(one: WeightDot, other: WeightDot) -> bool:
    """Whether two products read the same rows of the same value, in whatever shape each has it."""
    (source, rows), (second, others) = _input_rows(one), _input_rows(other)
    return source is second and np.array_equal(rows, others)


def _input_rows(dot: WeightDot) -> tuple[Value, np.ndarray]:
    """The value behind canonical x, and which of its elements each element of canonical x is."""
    chain: list[Op] = []
    value = dot.x
    while value.op is not None and value.op.name in LAYOUT and value.op.operands[0].size == value.size:
        chain.append(value.op)
        value = value.op.operands[0]
    index = np.arange(value.size).reshape(value.shape)
    for op in reversed(chain):
        index = LAYOUT[op.name](index, op)
    return value, index.transpose(dot.x_free + dot.x_contracting).reshape(dot.batch, dot.d)


def _rows(dot: WeightDot, rows: np.ndarray) -> Weight:
    taken = dot.weight.take_rows(rows)
    if taken is None:
        raise NoMatch("its neurons are an irregular selection of a weight's rows", depth=4)
    return taken


def _check_layers(down: WeightDot, products: tuple[WeightDot, ...], region: Region) -> None:
    origins = [dot.layer for dot in products] + [origin.layer for origin, _ in region.parameters]
    layers = [dot.weight.layers for dot in products] + [origin.weight.layers for origin, _ in region.parameters]
    if any(layer is not down.layer for layer in origins):
        raise NoMatch("its weights are picked by different loop counters", depth=4)
    if any(count != down.weight.layers for count in layers):
        raise NoMatch("its stacked weights have different numbers of layers", depth=4)
