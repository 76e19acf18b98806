"""The region above a value: what was computed between two matrix products.

Authors write layouts in many ways (``[B,1,V]``, fused ``[2,ff]`` then slices, transposes). Instead of a pattern
for each, the region is read into terms (``terms.py``) that carry index arrays through every layout operation, and
resolved into one expression over ``[batch, columns]`` (``canonical.py``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.adapters import is_adapter
from hire_compiler.patterns.region.canonical import Region, canonical_form, not_taken_apart, resolve
from hire_compiler.patterns.region.dots import read_weight_dot
from hire_compiler.patterns.region.given import beside_rows, given, given_row, row_value
from hire_compiler.patterns.region.joined import distribute, join, read_joined_product
from hire_compiler.patterns.region.read_group_topk import GROUP_TOPK, read_group_topk
from hire_compiler.patterns.region.row_numbers import ROW_OPERATIONS, read_row_operation
from hire_compiler.patterns.region.terms import (
    Given,
    Joined,
    Node,
    Parameter,
    Scalar,
    Stream,
    Term,
    map_indices,
    products_of,
    topological,
)
from hire_compiler.patterns.weights.narrow_reader import is_narrow_type
from hire_compiler.patterns.weights.provenance import Provenance

_MAX_OPERATIONS = 2000  # a region longer than this is a whole network, not an activation


_MAX_PRODUCTS = 4  # two make a gated block, adapters may stand beside them; more is the sum of earlier layers
_WIDE = frozenset({"float64", "int64", "uint64", "complex64", "complex128"})
_MASKING = frozenset({"multiply", "divide", "select"})


class RegionReader:
    """Reads regions; remembers every value it has seen, so shared subexpressions are read once."""

    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance
        self._terms: dict[int, Term | NoMatch] = {}

    def read(self, value: Value, columns: tuple[int, ...], *, adapters: bool = False) -> Region:
        """Read the region above ``value``, whose dimensions ``columns`` (in that order) hold the neurons.

        Args:
          value: the end of the region.
          columns: its dimensions that hold the neurons.
          adapters: whether values may be given that are not read further: what a low-rank adapter adds.

        Raises:
          NoMatch: something in the region is neither elementwise nor drawn from all neurons of a row; the reason
            names the operation and its scope.
        """
        region = resolve(self.term(value), canonical_form(value.shape, columns))
        if not adapters and region.givens:
            raise NoMatch("an adapter adds to it (a low-rank product)", depth=3)
        return region

    def term(self, value: Value) -> Term:
        """The region above a value as a tree (with shared nodes)."""
        # Iterative, not recursive: a chain of a thousand operations is no reason to fail.
        stack = [value]
        while stack:
            top = stack[-1]
            if id(top) in self._terms:
                stack.pop()
                continue
            missing = [v for v in self._read_operands(top) if id(v) not in self._terms]
            if missing:
                stack += missing
                continue
            stack.pop()
            try:
                self._terms[id(top)] = self._read(top)
            except NoMatch as no:
                self._terms[id(top)] = no
        known = self._terms[id(value)]
        if isinstance(known, NoMatch):
            raise known
        return known

    def _read_operands(self, value: Value) -> tuple[Value, ...]:
        return _read_operands(value)

    def _read(self, value: Value) -> Term:
        op = value.op
        if op is None:
            return self._parameter(value)
        if op.name == "constant" or op.folded is not None:
            return _scalar(op)
        if op.name == "dot_general":
            return self._product(op)
        if op.name in LAYOUT:
            return self._layout(op)
        if op.name in ROW_OPERATIONS:
            return self._row_operation(op, value)
        if op.name == GROUP_TOPK:
            return read_group_topk(op, self.term(op.operands[0]))
        if op.name == "concatenate" and (joined := self._concatenate(op)) is not None:
            return joined
        if op.name not in OPERATIONS:
            before = self._products_before(op)
            reason, depth = f"{_describe(op)} stands between the matrix products", 3 if before else 1
            raise NoMatch(reason, depth=depth, involved=before, final=op.name == "scatter")
        return self._node(op, value)

    def _product(self, op: Op) -> Term:
        if is_adapter(op, self._provenance):
            return given(op.result)
        joined = read_joined_product(op, self._provenance)
        if joined is not None:
            return joined
        try:
            dot = read_weight_dot(op, self._provenance)
        except NoMatch:
            made = [(v, source) for v in op.operands if (source := self._provenance.sources.weight(v))]
            if not made and not any(map(self._provenance.is_weight, op.operands)):
                raise NoMatch("a product of two activations stands before it (attention?)", depth=1) from None
            if not made:
                raise
            value, source = max(made, key=lambda entry: entry[0].size)
            reason = f"in the product before it, {source.argument.name} is no parameter"
            refusal = self._provenance.refusal(value)
            if not refusal:  # a cache of attention, or experts
                raise NoMatch("a product that is batched stands before it", depth=1) from None
            raise NoMatch(f"{reason}: {refusal}", depth=2, involved=(op,)) from None
        return Stream(dot, dot.row_index(), dot.batch_index())

    def _node(self, op: Op, value: Value) -> Term:
        before = [self._terms[id(operand)] for operand in op.operands]
        if any(isinstance(term, Given) for term in before) and not any(
            products_of(term) for term in before if not isinstance(term, NoMatch)
        ):
            return given(value)  # an adapter's part, scaled
        args = self._beside_whole_numbers(op, before) or beside_rows(op, before) or tuple(self._operands(op))
        if op.name == "convert" and isinstance(args[0], Parameter):
            return self._parameter(value)
        size = 1 + sum(arg.size for arg in args if isinstance(arg, Node))
        if size > _MAX_OPERATIONS:
            raise NoMatch(f"more than {_MAX_OPERATIONS} operations stand before it since the last product", depth=1)
        if value.dtype in _WIDE:
            raise NoMatch(f"{_describe(op)} computes in {value.dtype}, and what is repeated here has 32 bits", depth=3)
        node = Node(op.name, args, value.dtype, detail(op), size)
        if len(node.products) > _MAX_PRODUCTS:
            raise NoMatch(f"more than {_MAX_PRODUCTS} matrix products are added up (a residual stream)")
        return distribute(node)

    def _beside_whole_numbers(self, op: Op, before: list[Term | NoMatch]) -> tuple[Term, ...] | None:
        """The terms of a product of quantised inputs and the scales of these, which are given; None for others."""
        if op.name not in ("multiply", "divide"):
            return None
        for i, other in ((0, 1), (1, 0)):
            sums, value = before[i], op.operands[other]
            if isinstance(sums, NoMatch) or not _of_quantised(sums):
                continue
            batch = next(iter(products_of(sums))).batch
            if isinstance(before[other], (Parameter, Scalar)) or not self._is_given_scale(value, batch):
                return None
            scale = given_row(value, batch)
            return (sums, scale) if i == 0 else (scale, sums)
        return None

    def _is_given_scale(self, value: Value, batch: int) -> bool:
        """Whether a value is one number for each batch row, or those times the scales of a weight."""
        if row_value(value, batch) is not None:
            return True
        op = value.op
        if op is None or op.name != "multiply":
            return False
        rows = [i for i in (0, 1) if row_value(op.operands[i], batch) is not None]
        return len(rows) == 1 and _of_parameters(self._terms.get(id(op.operands[1 - rows[0]])))

    def _concatenate(self, op: Op) -> Term | None:
        """Products, or what becomes of them, side by side; None where something else is among them."""
        found = [self._terms[id(operand)] for operand in op.operands]
        terms = [term for term in found if not isinstance(term, NoMatch)]
        if len(terms) < len(found) or not any(products_of(term) for term in terms):
            return None
        return join(terms, [operand.shape for operand in op.operands], op.int("dimension"), _describe(op))

    def _operands(self, op: Op) -> list[Term]:
        """The terms of all operands; of several that fail, the one that came furthest says why."""
        terms, failed = [], []
        for operand in op.operands:
            try:
                terms.append(self.term(operand))
            except NoMatch as no:
                failed.append(no)
        if not failed:
            return terms
        deepest = max(failed, key=lambda no: no.depth)
        before = _in_order(dot.op for term in terms for dot in products_of(term))
        if before and op.name in _MASKING:
            # Something masks or scales what a product made: a dropout left on, padding masked out. Where the other
            # operand follows from a product itself, its own reason says it all, and it speaks for these products too.
            reason = deepest.reason if deepest.depth >= 3 else f"{deepest.reason} ({_describe(op)})"
            involved = _in_order((*deepest.involved, *before))
            raise NoMatch(reason, depth=max(deepest.depth, 3), involved=involved, final=deepest.final) from None
        raise deepest

    def _row_operation(self, op: Op, value: Value) -> Term:
        term = self.term(op.operands[0])
        if isinstance(term, Joined):
            raise not_taken_apart(term)
        try:
            return read_row_operation(op, value.index, term)
        except NoMatch as no:
            depth = max(no.depth, 3) if products_of(term) else 1
            before = _in_order(dot.op for dot in products_of(term))
            raise NoMatch(f"{no.reason} ({_describe(op)})", depth=depth, involved=before) from None

    def _layout(self, op: Op) -> Term:
        value = op.operands[0]
        if self._provenance.is_weight(op.result) and value.size != 1:
            return self._parameter(op.result)
        term = self.term(value)
        if isinstance(term, Scalar):
            return term
        apply = LAYOUT[op.name]
        return map_indices(term, lambda index: apply(np.broadcast_to(index, value.shape), op))

    def _parameter(self, value: Value) -> Term:
        try:
            origin = self._provenance.weight(value)
        except NoMatch as no:
            raise NoMatch(f"a value of shape {list(value.shape)} enters: {no.reason}", depth=1) from None
        if value.dtype in _WIDE:
            raise NoMatch(f"a parameter of type {value.dtype} enters, and what is repeated here has 32 bits", depth=3)
        if value.size > 1 << 22:
            raise NoMatch("a parameter as large as a matrix enters elementwise", depth=1)
        return Parameter(origin, np.arange(value.size).reshape(value.shape))

    def _products_before(self, op: Op) -> tuple[Op, ...]:
        terms = [self._terms.get(id(operand)) for operand in op.operands]
        return _in_order(dot.op for term in terms if isinstance(term, Term) for dot in products_of(term))


def _in_order(operations: Iterable[Op]) -> tuple[Op, ...]:
    return tuple(sorted(set(operations), key=lambda op: op.position))


def _read_operands(value: Value) -> tuple[Value, ...]:
    op = value.op
    if op is None or op.name in ("dot_general", "constant") or op.folded is not None:
        return ()
    if op.name in LAYOUT or op.name in ROW_OPERATIONS:
        return op.operands[:1]
    return op.operands


def _of_parameters(term: Term | NoMatch | None) -> bool:
    """Whether parameters and constants alone enter a term."""
    if term is None or isinstance(term, NoMatch):
        return False
    return all(isinstance(part, (Parameter, Scalar, Node)) for part in topological(term))


def _of_quantised(term: Term) -> bool:
    """Whether a term follows from products of quantised inputs alone."""
    products = products_of(term)
    return bool(products) and all(is_narrow_type(dot.x.dtype) for dot in products)


def _scalar(op: Op) -> Scalar:
    value = op.constant()
    if value is None or (value.size > 1 and not (value == value.ravel()[0]).all()):
        raise NoMatch("a constant that differs by position enters", depth=1)
    first = value.ravel()[0]
    return Scalar(bool(first) if value.dtype == bool else float(first), op.result.dtype)


def detail(op: Op) -> str | None:
    """What else there is to know: a comparison's direction, a rounding's bits; where what is converted was made.

    XLA:CPU drops the rounding of a product or of elementwise code that is widened ``"at once"``. Nobody knows of what
    is made ``"elsewhere"``: outside of a branch or a loop, behind a change of layout (which XLA may undo, or may have
    added: it does to every product of other than two dimensions), padding, a barrier or a sharding.
    """
    if op.name == "compare":
        return op.text("comparison_direction")
    if op.name == "reduce_precision":
        return f"{op.int('exponent_bits')}/{op.int('mantissa_bits')}"
    if op.name != "convert":
        return None
    made = op.operands[0].op
    if made is None or made.block is not op.block or not _reads_directly(op, made):
        return "elsewhere"
    if made.name == "dot_general":
        return "at once" if len(made.result.shape) == 2 else "elsewhere"
    return "at once" if made.name in OPERATIONS else "elsewhere"


def _reads_directly(op: Op, made: Op) -> bool:
    """Whether nothing that hands values on unchanged stands between two operations."""
    return any(op.ir.operands[0] == result for result in made.ir.results)


def _describe(op: Op) -> str:
    scope = op.scope
    return f"{op.name} (in {scope})" if scope else op.name


__all__ = ["Region", "RegionReader"]
