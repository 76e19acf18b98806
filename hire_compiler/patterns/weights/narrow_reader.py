"""Weights that are stored narrow: the author's arithmetic from what is stored to what is multiplied.

::

    q ── convert ── [− zero] ── × scale ─┐                       one scale for each row, column, block, or for all
    q ── >> 0, 4 ── & 15 ── reshape ─────┤ layout ── dot          several numbers in one
    q ───────────────────────────────────┘                       the scale behind the product: part of what follows it

Read upwards from the operand: elementwise code and changes of layout, down to parameters and constants. Whatever else
stands there (a product, a lookup, what a loop changes) makes it no weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

import numpy as np

from hire_compiler.graph.expression import BITWISE, OPERATIONS, Instruction
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.narrow import narrow_weight
from hire_compiler.graph.storage import Entangled, Form, apply, concatenate, constants, leaf, scalar
from hire_compiler.graph.weight import Weight, bits
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.weights.origin import Origin

_NARROW = re.compile(r"u?int[248]$|float[468]_")
_INTEGER = re.compile(r"u?int[248]$")
_PACKED = ("int16", "uint16", "int32", "uint32")
FLOATS = ("float32", "bfloat16", "float16")
_DEEPEST = 64
_MOST_CONSTANTS = 64  # numbers of the program's own that differ by position
_MOST_PARTS = 6


class NarrowReader:
    """Reads values as elementwise code over parameters, remembering every answer.

    Args:
      stored: which parameter a value is, through changes of layout alone, whatever its type.
    """

    def __init__(self, stored: Callable[[Value], Origin]) -> None:
        self._stored = stored
        self._known: dict[int, tuple[Form, Value | None] | NoMatch] = {}

    def weight(self, value: Value) -> Origin:
        """The weight that is computed into a value, from narrow numbers.

        Raises:
          NoMatch: it is none; the reason says what stands in the way.
        """
        if len([n for n in value.shape if n > 1]) < 2:
            raise NoMatch("it is no matrix")
        if value.dtype not in FLOATS:
            raise NoMatch(f"it is stored as {value.dtype} (quantised)")
        return self._weight(*self._read(value, 0))

    def factor(self, value: Value, dtype: str) -> Origin:
        """The same for a narrow factor of a product of another type, which converts it."""
        form, layer = self._read(value, 0)
        return self._weight(form.then("convert", dtype), layer)

    @staticmethod
    def _weight(form: Form, layer: Value | None) -> Origin:
        weights = [part for part in form.parts if isinstance(part, Weight)]
        rounded = any(_NARROW.match(i.dtype) for i in form.code.instructions)  # floats that pass through a narrow type
        numbers = [
            part
            for part in weights
            if _NARROW.match(part.dtype) or part.dtype in _PACKED or (rounded and part.dtype in FLOATS)
        ]
        if not any(_is_matrix(part, form) for part in numbers):
            raise NoMatch("nothing of it is stored narrow")
        if len(form.parts) > _MOST_PARTS:
            raise NoMatch(f"it is computed from more than {_MOST_PARTS} parameters", depth=1)
        counts = {part.layers for part in weights} - {None}
        if len(counts) > 1:
            raise NoMatch("its numbers and its scales have different numbers of layers", depth=1)
        return Origin(narrow_weight(form), layer)

    def _read(self, value: Value, depth: int) -> tuple[Form, Value | None]:
        known = self._known.get(id(value))
        if known is None:
            if depth > _DEEPEST:
                raise NoMatch("too much is computed on the way from a parameter")
            try:
                known = self._form(value, depth + 1)
            except Entangled as mixed:
                known = NoMatch(f"{mixed} mixes numbers and scales of a quantised weight", depth=1)
            except NoMatch as no:
                known = no
            self._known[id(value)] = known
        if isinstance(known, NoMatch):
            raise known
        return known

    def _form(self, value: Value, depth: int) -> tuple[Form, Value | None]:
        try:
            origin = self._stored(value)
            return leaf(origin.weight), origin.layer
        except NoMatch as no:
            if value.op is None:
                raise
            refusal = no
        op = value.op
        if op.name in ("constant", "iota"):
            return _constant(op), None
        if op.name == "concatenate":
            return self._together(op, depth, lambda forms: concatenate(forms, op.int("dimension")))
        if op.name in _LAYOUT:
            form, layer = self._read(op.operands[0], depth)
            return _LAYOUT[op.name](form, op), layer
        if op.name in OPERATIONS or op.name in BITWISE:
            return self._together(op, depth, lambda forms: apply(op.name, forms, value.dtype, _detail(op)))
        raise refusal

    def _together(self, op: Op, depth: int, combine: Callable[[list[Form]], Form]) -> tuple[Form, Value | None]:
        read = [self._read(operand, depth) for operand in op.operands]
        layers = {id(layer): layer for _, layer in read if layer is not None}
        if len(layers) > 1:
            raise NoMatch("its numbers and its scales are picked by different loop counters", depth=1)
        return combine([form for form, _ in read]), next(iter(layers.values()), None)


def is_narrow_type(dtype: str) -> bool:
    """Whether a type holds quantised numbers, one each."""
    return bool(_NARROW.match(dtype))


def is_whole_type(dtype: str) -> bool:
    """Whether a type holds narrow integers."""
    return bool(_INTEGER.match(dtype))


def unwidened(op: Op, position: int) -> Value:
    """An operand of a product, before it is widened to the type of an exact sum.

    JAX widens both where they are narrow integers of different types: ``uint8`` inputs, an ``int8`` weight.
    """
    value = op.operands[position]
    made = value.op if value.dtype == op.result.dtype == "int32" else None
    widens = made is not None and made.name == "convert" and is_whole_type(made.operands[0].dtype)
    return made.operands[0] if made is not None and widens else value


def _is_matrix(part: Weight, form: Form) -> bool:
    """Whether a part can hold the numbers of a matrix: a mask or a table of positions is made of less."""
    return sum(n > 1 for n in part.shape) > 1 and part.size * bits(part.dtype) >= 2 * prod(form.shape)


def _constant(op: Op) -> Form:
    array, shape, dtype = op.constant(), op.result.shape, op.result.dtype
    if op.name == "iota":
        axis, n = op.int("iota_dimension"), op.result.size
        if n > _MOST_CONSTANTS:
            raise NoMatch("numbers that differ by position are counted into it")
        along = [-1 if i == axis else 1 for i in range(len(shape))]
        array = np.broadcast_to(np.arange(shape[axis]).reshape(along), shape)
    if array is None or not (dtype in FLOATS or re.match(r"u?int(2|4|8|16|32)$|bool", dtype)):
        raise NoMatch("a constant that cannot be read enters")
    first = array.reshape(-1)[0] if array.size else 0
    if array.size == 1 or (array == first).all():
        return scalar(Instruction("constant", (), dtype, float(first)), shape)
    if array.size > _MOST_CONSTANTS:
        raise NoMatch("a constant that differs by position enters")
    return constants(array, dtype)


def _detail(op: Op) -> str | None:
    if op.name == "compare":
        return op.text("comparison_direction")
    if op.name == "reduce_precision":
        return f"{op.int('exponent_bits')}/{op.int('mantissa_bits')}"
    return None


def _bounds(op: Op) -> tuple[tuple[int, ...], ...]:
    return tuple(op.ints(name) for name in ("start_indices", "limit_indices", "strides"))


_LAYOUT: dict[str, Callable[[Form, Op], Form]] = {
    "reshape": lambda form, op: form.reshaped(op.result.shape),
    "transpose": lambda form, op: form.transposed(op.ints("permutation")),
    "broadcast_in_dim": lambda form, op: form.broadcast(op.ints("broadcast_dimensions"), op.result.shape),
    "slice": lambda form, op: form.sliced(*_bounds(op)),
}
