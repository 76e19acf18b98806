"""Which parameter stands behind an operand that is no parameter as it stands.

Only for the reports: ``x · (w · scale)``, ``x · int8(w)``, one of several experts. No such product is a site, but a
user who expected one has to read why. Every value has one of three origins: *nothing* of weight (constants, counters,
scalars), the largest *parameter* that reaches it, or an *activation*: something that a product made, or state.
Attention, activations times activations, is none of the user's worries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from hire_compiler.capture.program import Argument
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import bits
from hire_compiler.patterns.operations.contractions import is_contraction

_SMALLEST_TABLE = 1 << 16  # bytes: integers of fewer are tokens and positions, vectors of fewer are biases
_NARROW = re.compile(r"u?int[248]$")
_TOKENS = ("int32", "int64", "uint32", "uint64")


@dataclass(frozen=True)
class Source:
    """The largest parameter that reaches a value.

    Attributes:
      argument: the parameter.
      looked_up: rows of it, by their numbers: an embedding.
      picked: how many whole matrices it holds, of which some are picked by their numbers; 0 if none are.
      computed: those numbers were computed from activations.
      scaled: it is multiplied by another parameter or constant on the way, of this shape.
      codebook: its numbers are places in another parameter, of this name.
    """

    argument: Argument
    looked_up: bool = False
    picked: int = 0
    computed: bool = False
    scaled: tuple[int, ...] | None = None
    codebook: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the parameter."""
        return prod(self.argument.shape) * bits(self.argument.dtype) // 8


class _Activation:
    """The origin of what depends on the program's input."""


ACTIVATION = _Activation()
Origin = Source | _Activation | None


class Sources:
    """Answers "which parameter is behind this value?", remembering every answer."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self._arguments = arguments
        self._known: dict[int, Origin] = {}

    def of(self, value: Value) -> Origin:
        """The origin of a value."""
        stack = [value]
        while stack:
            top = stack[-1]
            key = id(top)
            if key not in self._known:
                self._known[key] = None  # while a loop is gone round, what it carries counts as nothing
                stack += [v for v in _inputs(top) if id(v) not in self._known]
            else:
                stack.pop()
                self._known[key] = self._origin(top)
        return self._known[id(value)]

    def is_constant(self, value: Value) -> bool:
        """Whether neither a parameter nor an activation reaches a value: it is constant, or a small argument."""
        return self.of(value) is None

    def weight(self, value: Value) -> Source | None:
        """The parameter behind a value, if that can be a matrix of weights."""
        origin = self.of(value)
        if not isinstance(origin, Source) or len([n for n in value.shape if n > 1]) < 2:
            return None
        # A value of more elements than there are bits behind it is a mask or a table.
        return origin if origin.nbytes * 8 >= value.size else None

    def _origin(self, value: Value) -> Origin:
        op = value.op
        if op is None:
            return self._argument(value)
        if op.name in ("constant", "iota"):
            return None
        if is_contraction(op):
            return self._product(op)
        if op.name in ("gather", "dynamic_slice"):
            return self._picked(op)
        if op.name in ("multiply", "divide"):
            return self._scaled(op)
        given = [self._known.get(id(v)) for v in _inputs(value)]
        # What changes a part of it makes state of a parameter: keys and values in a cache.
        return ACTIVATION if ACTIVATION in given else _largest(given, [v.size for v in _inputs(value)])

    def _argument(self, value: Value) -> Origin:
        assert value.block is not None
        if value.block.owner is not None:
            given = _inputs(value)
            return _largest([self._known.get(id(v)) for v in given], [v.size for v in given])
        argument = self._arguments[value.index]
        if argument.donated:
            return ACTIVATION
        nbytes = value.size * bits(argument.dtype) // 8
        if (len(value.shape) < 2 or argument.dtype in _TOKENS or argument.dtype == "bool") and nbytes < _SMALLEST_TABLE:
            return None
        return Source(argument)

    def _product(self, op: Op) -> Origin:
        given = [self._known.get(id(operand)) for operand in op.operands]
        # Two factors multiplied out, as an adapter is merged; not an input times a weight.
        merged = op.result.size >= max(operand.size for operand in op.operands)
        return _largest(given, [v.size for v in op.operands]) if merged else ACTIVATION

    def _picked(self, op: Op) -> Origin:
        origin = self._known.get(id(op.operands[0]))
        if origin is None and op.name == "gather":  # numbers of a table of the program's own: a codebook
            places = self._known.get(id(op.operands[1]))
            return replace(places, codebook="the program's own") if isinstance(places, Source) else places
        if not isinstance(origin, Source):
            return origin
        sizes = op.ints("slice_sizes")
        places = self._known.get(id(op.operands[1])) if op.name == "gather" and set(sizes) == {1} else None
        if isinstance(places, Source) and _NARROW.match(places.argument.dtype):
            return replace(places, codebook=origin.argument.name)
        if op.name == "gather" and len([n for n in sizes if n > 1]) < 2:
            # As many as there are, in another order, or a codebook, are still a matrix.
            return replace(origin, looked_up=op.result.size * 2 < op.operands[0].size)
        computed = any(self._known.get(id(index)) is ACTIVATION for index in op.operands[1:])
        several = op.name == "gather" and op.operands[1].size > 1
        cut = prod(whole for whole, part in zip(op.operands[0].shape, sizes, strict=True) if part < whole)
        return replace(origin, picked=cut, computed=computed) if computed or several else origin

    def _scaled(self, op: Op) -> Origin:
        parts = [(self._known.get(id(v)), _unbroadcast(v)) for v in op.operands]
        made = _largest([origin for origin, _ in parts], [v.size for _, v in parts])
        if not isinstance(made, Source):
            return made
        scale = min((v for _, v in parts), key=lambda v: v.size)
        return replace(made, scaled=scale.shape)


def _largest(origins: Sequence[Origin], sizes: Sequence[int]) -> Origin:
    """The origin of what is made of several values: the largest parameter, unless an activation of its size enters."""
    largest: tuple[int, Source | None] = (0, None)
    for origin, size in zip(origins, sizes, strict=True):
        if isinstance(origin, Source) and size > largest[0]:
            largest = (size, origin)
    activations = [size for origin, size in zip(origins, sizes, strict=True) if origin is ACTIVATION]
    if activations and max(activations) * 8 > largest[0]:
        return ACTIVATION
    found = [origin for origin in origins if isinstance(origin, Source)]
    looked_up = bool(found) and all(origin.looked_up for origin in found)
    return None if largest[1] is None else replace(largest[1], looked_up=looked_up)


def _unbroadcast(value: Value) -> Value:
    while value.op is not None and value.op.name in ("broadcast_in_dim", "reshape", "convert"):
        value = value.op.operands[0]
    return value


def _inputs(value: Value) -> tuple[Value, ...]:
    """The values that a value is made of, indices left out where the origin does not depend on them."""
    op = value.op
    if op is None:
        return _carried(value)
    if op.name == "while":
        return op.operands[value.index], op.blocks[1].returned[value.index]
    if op.name in ("case", "if") or op.name == "sdy.manual_computation":
        return tuple(block.returned[value.index] for block in op.blocks)
    if op.name == "select":
        return op.operands[1:]
    return op.operands


def _carried(value: Value) -> tuple[Value, ...]:
    block = value.block
    owner = block.owner if block is not None else None
    if block is None or owner is None:
        return ()
    if owner.name == "while":
        return owner.operands[value.index], owner.blocks[1].returned[value.index]
    return (owner.operands[value.index],) if owner.name == "sdy.manual_computation" else ()


__all__ = ["ACTIVATION", "Source", "Sources"]
