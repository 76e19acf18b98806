"""Why a product with a weight is no site, in the words of those who write models.

A pattern says where it stopped; that alone would call an expert "heads", a query "cut into parts", and an int8 weight
"computed (multiply)". Here the surroundings of the product say what it is.
"""

from __future__ import annotations

from functools import cached_property
from math import prod

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.misses.neighbours import (
    batched_over,
    is_attended,
    is_behind_convolution,
    is_chosen_among,
    is_from_attention,
    is_from_softmax,
    is_mixed,
    is_softmax_of,
)
from hire_compiler.patterns.operations.contractions import is_opaque, is_product, operands
from hire_compiler.patterns.operations.match import EXPERTS, NoMatch
from hire_compiler.patterns.region.dots import contracted_size
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.patterns.weights.quantised import scale_of, storage
from hire_compiler.patterns.weights.sources import Source
from hire_compiler.reports.report import Miss

_MOST_EXPERTS = 1024
_LARGE = 1 << 16  # bytes; a kernel that reads less reads a bias, a table of positions, a seed


class Explainer:
    """Turns reasons into misses; knows all products of a program."""

    def __init__(self, products: list[Op], provenance: Provenance) -> None:
        self._products = products
        self._provenance = provenance
        self._sources = provenance.sources

    def miss(self, op: Op, no: NoMatch | None) -> Miss | None:
        """The miss of a product that is part of no site; None if no weight takes part in it."""
        if op.name == "dot_general" and contracted_size(op) == 1:
            return None  # an elementwise product that an einsum spelled as a dot
        if is_opaque(op):
            return self._kernel(op)
        found = self._weight(op)
        if found is None:
            return None  # activations times activations: attention, never a candidate
        operand, source = found
        if source is None:
            name = self._name(op, operand)
            reason = self._reason(op, operand, no)
            return Miss(path=op.scope, reason=reason, weight=name, expected=reason in _EXPECTED)
        return Miss(path=op.scope, reason=self._computed(op, operand, source), weight=source.argument.name)

    def _weight(self, op: Op) -> tuple[Value, Source | None] | None:
        """The operand that is the weight: a parameter as it stands (no source), or computed from one."""
        plain = [v for i, v in enumerate(operands(op)) if self._is_weight(op, i)]
        known = max(plain, key=lambda v: v.size, default=None)
        made = [(v, source) for v in operands(op) if v not in plain and (source := self._sources.weight(v))]
        if known is not None and all(source.looked_up for _, source in made):
            made = []  # an embedding that goes into a product with a weight
        if len(made) == 2 and known is None:
            # Where the input is an argument, too, it looks alike: a weight is the larger by far.
            small, large = sorted(made, key=lambda entry: entry[0].size)
            made = [large] if large[0].size >= 2 * small[0].size or large[1].nbytes >= _LARGE else []
        if made and (known is None or made[0][0].size > 2 * known.size):
            return made[0]
        return None if known is None else (known, None)

    def _is_weight(self, op: Op, position: int) -> bool:
        if op.name == "dot_general":
            return self._provenance.is_factor(op, position)
        return self._provenance.is_weight(op.operands[position])

    def _name(self, op: Op, operand: Value) -> str:
        position, provenance = op.operands.index(operand), self._provenance
        origin = provenance.factor(op, position) if op.name == "dot_general" else provenance.weight(operand)
        return origin.weight.name

    def _kernel(self, op: Op) -> Miss | None:
        read = [source for v in op.operands if (source := self._sources.weight(v)) and not source.looked_up]
        largest = max(read, key=lambda source: source.nbytes, default=None)
        if largest is None or largest.nbytes < _LARGE:
            return None
        kind, _, name = op.name.partition("@")
        what = "custom call" if kind == "custom_call" else "composite"
        reason = f"a {what} ({name}) reads it: what that computes cannot be seen"
        return Miss(path=op.scope, reason=reason, weight=largest.argument.name)

    def _computed(self, op: Op, operand: Value, source: Source) -> str:
        stored = storage(source.argument.dtype)
        quantised = f"a quantised weight ({stored}{scale_of(op, operand, source)})" if stored else ""
        if source.picked:
            of = f" of {quantised}" if quantised else ""
            how = "what was computed (an expert of a router)" if source.computed else "numbers (experts, or adapters)"
            return f"it is one of {source.picked} parameters, picked by {how}{of}"
        if source.codebook:
            return f"{quantised}: its numbers are looked up in a codebook ({source.codebook}), which is not followed"
        if quantised:
            return f"{quantised}: {self._provenance.refusal(operand)}"
        if op.name == "convolution":
            return _WINDOW
        if source.looked_up:
            return "its rows are looked up by numbers, so it is another weight in each call"
        return f"its weight is no parameter as it stands: {self._provenance.refusal(operand)}"

    def _reason(self, op: Op, operand: Value, no: NoMatch | None) -> str:
        if op.name == "convolution":
            return _WINDOW
        experts = self._experts(operand.shape)
        if op.name != "dot_general":
            what = f"{experts} experts" if experts else "the parts of its weight"
            return f"a ragged product: {what} take only the rows that a router gave them"
        if no is not None and no.depth >= EXPERTS:
            return no.reason
        if self._is_cache(op):
            return _CACHE
        batch, _, left, right = _mlir.dot_dimensions(op.ir)
        if experts and batch:
            return _EXPERTS.format(experts)
        contracted = left if operand is op.operands[0] else right
        free = [n for i, n in enumerate(operand.shape) if i not in contracted]
        if len(contracted) == 1 and is_mixed(op, operand.shape[contracted[0]], free):
            mixed = operand.shape[contracted[0]]
            return (
                f"it mixes {mixed} matrices by numbers of the call, so what is multiplied is another weight each time"
            )
        if prod(free) in self._expert_counts and is_chosen_among(op):
            return f"a router: it scores {prod(free)} experts"
        attended, from_attention = (walk(op, self._has_weight) for walk in (is_attended, is_from_attention))
        if experts and not from_attention and (experts not in free or (free[0] == experts and not attended)):
            return _EXPERTS.format(experts)
        if no is not None and no.depth > 1:
            return no.reason
        if batch:
            count = prod(op.operands[0].shape[i] for i in batch)
            return f"the product is batched over {count} matrices (experts or heads)"
        if attended:
            return _PROJECTION
        if from_attention:
            return _OUTPUT
        if is_behind_convolution(op):
            return f"its input is made by {_WINDOW}: no block of matrix products ends here"
        rows = [i for i, n in enumerate(operand.shape) if i not in contracted and n > 1]
        if len(rows) > 1 and (count := batched_over(op, self._has_weight)) > 1:
            return f"what it makes goes into a product that is batched over {count} matrices (an ensemble, or experts)"
        return no.reason if no is not None else "its result is read by nothing that makes it a site"

    def _has_weight(self, op: Op) -> bool:
        given = any(self._provenance.is_weight(v) or self._sources.weight(v) is not None for v in operands(op))
        return given and not self._is_cache(op)

    def _is_cache(self, op: Op) -> bool:
        """Whether a product is one of attention: with keys or values that are an argument of the program."""
        if op.name != "dot_general" or not _mlir.dot_dimensions(op.ir)[0]:
            return False
        computed = [v for v in op.operands if not self._provenance.is_weight(v) and self._sources.weight(v) is None]
        return len(computed) == 1 and (is_softmax_of(op) or is_from_softmax(op))

    def _experts(self, shape: tuple[int, ...]) -> int:
        """How many experts a weight of rank three holds, if a router of the program chooses among so many."""
        counts = [n for n in shape if n in self._expert_counts] if len(shape) > 2 else []
        return counts[0] if counts else 0

    @cached_property
    def _expert_counts(self) -> frozenset[int]:
        """The numbers of rows of all products among whose results the program chooses."""
        given = [v for op in self._products for v in operands(op) if len(v.shape) > 2]
        stacked = {n for v in given for n in v.shape if n > 1}
        stacked |= {source.picked for v in given if (source := self._sources.weight(v)) is not None}
        found = set()
        for op in self._products:
            if not is_product(op) or op.name != "dot_general":
                continue
            rows = op.result.shape[-1] if op.result.shape else 0
            if rows in stacked and rows <= min(_MOST_EXPERTS, contracted_size(op)) and is_chosen_among(op):
                found.add(rows)
        return frozenset(found)


_PROJECTION = "a projection of attention (queries, keys or values): expected, nothing is skipped there"
_OUTPUT = "the output projection of attention: expected, nothing is skipped there"
_CACHE = "keys or values of attention that are an argument: expected, nothing is skipped there"
_EXPECTED = (_PROJECTION, _OUTPUT, _CACHE)
_EXPERTS = "its weight holds {} experts, each of which is computed; no sum over them has a router's weights as factors"
_WINDOW = "a convolution with a window of several positions, or in groups"
