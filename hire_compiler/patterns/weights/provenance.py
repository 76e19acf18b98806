"""Provenance: follow a dot's operand back to an argument of ``@main``, through layout steps only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hire_compiler import _mlir
from hire_compiler.capture.program import Argument
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.storage import Entangled
from hire_compiler.graph.weight import Step, Weight
from hire_compiler.patterns.operations.loop_counters import LoopCounters
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.weights.narrow_reader import NarrowReader, unwidened
from hire_compiler.patterns.weights.origin import Origin
from hire_compiler.patterns.weights.quantised import storage
from hire_compiler.patterns.weights.sources import ACTIVATION, Source, Sources

_STORED = ("float32", "bfloat16", "float16")  # storage that rows can be gathered from and summed as they are


class Provenance:
    """Answers "which weight is this value?", remembering every answer.

    Attributes:
      counters: what the loop counters run through that pick layers of stacked weights.
      sources: the parameters behind values that are none themselves.
    """

    def __init__(self, arguments: Sequence[Argument], outputs: Sequence[str] = ()) -> None:
        self.counters = LoopCounters()
        self.sources = Sources(arguments)
        self._arguments = arguments
        self._outputs = outputs
        self._known: dict[int, Origin | NoMatch] = {}
        self._stored = _Stored(arguments, self.counters)
        self._narrow = NarrowReader(self._stored.weight)

    def output(self, index: int) -> str:
        """How the program's output of a number is called."""
        return self._outputs[index] if index < len(self._outputs) else f"output {index}"

    def weight(self, value: Value) -> Origin:
        """The weight behind a value.

        Raises:
          NoMatch: the value is computed, constant, donated, or changed by a loop; the reason says which.
        """
        known = self._known.get(id(value))
        if known is None:
            try:
                known = self._trace(value)
            except NoMatch as no:
                known = self._computed(value, no)
            except Entangled as mixed:
                known = NoMatch(f"{mixed} mixes numbers and scales of a quantised weight")
            self._known[id(value)] = known
        if isinstance(known, NoMatch):
            raise known
        return known

    def factor(self, op: Op, position: int) -> Origin:
        """The weight behind an operand of a product, which converts what is stored narrow by itself.

        Raises:
          NoMatch: as :meth:`weight`.
        """
        value = unwidened(op, position)
        if value.dtype == op.result.dtype or not storage(value.dtype):
            return self.weight(value)
        if self.sources.of(value) is ACTIVATION:
            raise NoMatch(f"it is computed, of type {value.dtype}")
        return self._narrow.factor(value, op.result.dtype)

    def is_factor(self, op: Op, position: int) -> bool:
        """Whether :meth:`factor` has an answer."""
        try:
            self.factor(op, position)
        except NoMatch:
            return False
        return True

    def _computed(self, value: Value, no: NoMatch) -> Origin | NoMatch:
        """A weight that is computed from narrow numbers; or why it is none, in the words of ``no`` where none enter."""
        source = self.sources.of(value)
        if source is ACTIVATION:
            return no
        try:
            return self._narrow.weight(value)
        except NoMatch as narrow:
            quantised = isinstance(source, Source) and storage(source.argument.dtype)
            return narrow if narrow.depth or quantised else no

    def is_weight(self, value: Value) -> bool:
        """Whether :meth:`weight` has an answer."""
        try:
            self.weight(value)
        except NoMatch:
            return False
        return True

    def refusal(self, value: Value) -> str:
        """Why :meth:`weight` has no answer, or ''."""
        try:
            self.weight(value)
        except NoMatch as no:
            return no.reason
        return ""

    def _trace(self, value: Value) -> Origin:
        op = value.op
        if op is None:
            return self._argument(value)
        if op.name == "select":
            return self._checked_gather(op)
        if op.name in ("dynamic_slice", "gather"):
            axis, index = (_moving_axis if op.name == "dynamic_slice" else _gathered_axis)(op)
            return self._layer(self.weight(op.operands[0]), op, axis, index)
        if op.name in ("multiply", "divide"):
            return self._scaled(op)
        follow = _STEPS.get(op.name)
        if follow is None:
            what = "a constant of the module" if op.name == "constant" else f"computed ({op.name})"
            raise NoMatch(f"it is {what}, not a parameter")
        return follow(self.weight(op.operands[0]), op)

    def _checked_gather(self, op: Op) -> Origin:
        """``where(index is in range, weights[index], nan)``, which ``jnp.take`` makes: the check always holds."""
        check, value, fallback = op.operands
        while check.op is not None and check.op.name == "broadcast_in_dim":
            check = check.op.operands[0]
        filled = _splat(fallback)
        passes = self.counters.values(check) if check.size == 1 else None
        whole = storage(fallback.dtype)  # integers have no NaN
        if filled is None or not (whole or np.isnan(filled)) or passes is None or not passes.all():
            raise NoMatch("it is computed (select), not a parameter")
        return self.weight(value)

    def _scaled(self, op: Op) -> Origin:
        """A weight times one constant, or divided by it: a scale that the author puts on the weight itself."""
        left, right = op.operands
        weight, factor = (left, _splat(right)) if _splat(left) is None else (right, _splat(left))
        if factor is None or (op.name == "divide" and weight is right):
            raise NoMatch(f"it is computed ({op.name}), not a parameter")
        return _then(self.weight(weight), Step("scale", (op.name, factor)), op)

    def _layer(self, origin: Origin, op: Op, axis: int | None, index: Value | None) -> Origin:
        """One entry of a stacked weight, picked by a loop's counter or at a fixed place."""
        if axis is None or index is None:
            return _reshape(origin, op)
        source = op.operands[0].shape
        kept = (*source[:axis], 1, *source[axis + 1 :])
        places = self.counters.values(index)
        if places is not None and len(set(places.tolist())) == 1:
            # Every trip reads the same entry: a slice like any other.
            first = min(max(int(places[0]), 0), source[axis] - 1)
            starts = tuple(first if i == axis else 0 for i in range(len(source)))
            stops = tuple(first + 1 if i == axis else n for i, n in enumerate(source))
            cut = origin.weight.then(Step("slice", (starts, stops, (1,) * len(source))), kept)
            return _reshape(Origin(cut, origin.layer), op)
        if places is not None and (places.min() < 0 or places.max() >= source[axis]):
            raise NoMatch("it is picked from a stacked parameter by a counter that leaves its range")
        if places is None and _depends_on_data(index):
            raise NoMatch(
                f"it is one of {source[axis]} parameters, picked by what was computed (an expert of a router)"
            )
        if origin.layer is not None:
            raise NoMatch("it is picked by two loop counters out of a doubly stacked parameter")
        weight = origin.weight.then(Step("layer", (axis, source[axis])), kept)
        return _reshape(Origin(weight, index), op)

    def _argument(self, value: Value) -> Origin:
        assert value.block is not None
        if value.block.owner is not None:
            raise NoMatch("it is carried by a loop that changes it, not a parameter")
        argument = self._arguments[value.index]
        if argument.donated:
            raise NoMatch(f"{argument.name} is donated, so it is state and not a weight")
        self._check_type(value)
        return Origin(Weight(value.index, argument.name, value.shape, value.dtype))

    def _check_type(self, value: Value) -> None:
        if value.dtype not in _STORED and not (value.dtype == "bool" and len(value.shape) == 1):  # a vocabulary mask
            small = value.dtype.lower().startswith(("int", "uint", "i4", "ui4", "f8", "f4"))
            raise NoMatch(f"it is stored as {value.dtype}" + (" (quantised)" if small else ""))


class _Stored(Provenance):
    """Follows values through changes of layout alone, to arguments of any type."""

    def __init__(self, arguments: Sequence[Argument], counters: LoopCounters) -> None:
        self.counters = counters
        self._arguments = arguments
        self._known = {}

    def _trace(self, value: Value) -> Origin:
        if value.op is not None and value.op.name in ("convert", "multiply", "divide"):
            raise NoMatch(f"it is computed ({value.op.name}), not a parameter")
        return super()._trace(value)

    def _computed(self, value: Value, no: NoMatch) -> Origin | NoMatch:
        return no

    def _check_type(self, value: Value) -> None:
        """Any will do."""


def _transpose(origin: Origin, op: Op) -> Origin:
    turned = _then(origin, Step("transpose", op.ints("permutation")), op)
    return Origin(turned.weight.simplified(), turned.layer)


def _reshape(origin: Origin, op: Op) -> Origin:
    if origin.weight.shape == op.result.shape:
        return origin
    return _then(origin, Step("reshape", op.result.shape), op)


def _convert(origin: Origin, op: Op) -> Origin:
    if op.result.dtype == origin.weight.dtype:
        return origin
    return _then(origin, Step("convert", (op.result.dtype,)), op)


def _slice(origin: Origin, op: Op) -> Origin:
    bounds = tuple(op.ints(name) for name in ("start_indices", "limit_indices", "strides"))
    return _then(origin, Step("slice", bounds), op)


def _broadcast(origin: Origin, op: Op) -> Origin:
    dims, shape = op.ints("broadcast_dimensions"), op.result.shape
    kept = [shape[dim] for dim in dims]
    if list(origin.weight.shape) != kept or int(np.prod(shape)) != origin.weight.size or list(dims) != sorted(dims):
        raise NoMatch("it is a broadcast of a smaller parameter")
    return _then(origin, Step("reshape", shape), op)


def _moving_axis(op: Op) -> tuple[int | None, Value | None]:
    """The axis along which a dynamic slice picks one entry, and what picks it; (None, None) if it takes everything.

    Raises:
      NoMatch: it cuts more than one axis, or takes more than one entry.
    """
    source, result = op.operands[0].shape, op.result.shape
    moving = [i for i, (before, after) in enumerate(zip(source, result, strict=True)) if before != after]
    if not moving:
        return None, None
    if len(moving) > 1 or result[moving[0]] != 1:
        raise NoMatch("it is a dynamic slice of a parameter that is no single layer")
    return moving[0], op.operands[1 + moving[0]]


def _gathered_axis(op: Op) -> tuple[int | None, Value | None]:
    """The same for a gather with one index: ``jnp.take(weights, i, axis)``.

    Raises:
      NoMatch: it gathers many rows (an embedding lookup, experts chosen by a router).
    """
    source, sizes, index = op.operands[0].shape, op.ints("slice_sizes"), op.operands[1]
    cut = [i for i, (whole, part) in enumerate(zip(source, sizes, strict=True)) if whole != part]
    if index.size != 1 or len(cut) != 1 or sizes[cut[0]] != 1 or _mlir.gathered_dimensions(op.ir) != tuple(cut):
        raise NoMatch("it is computed (gather), not a parameter: its rows are looked up")
    return cut[0], index


_OF_DATA = frozenset({"dot_general", "reduce", "chlo.top_k", "sort", "convolution"})


def _depends_on_data(index: Value) -> bool:
    """Whether an index is computed from activations, and not from counters and arguments."""
    stack, seen = [index], {id(index)}
    while stack:
        op = stack.pop().op
        if op is None:
            continue
        if op.name in _OF_DATA:
            return True
        fresh = [operand for operand in op.operands if id(operand) not in seen]
        seen |= {id(operand) for operand in fresh}
        stack += fresh
    return False


def _splat(value: Value) -> float | None:
    while value.op is not None and value.op.name in ("broadcast_in_dim", "reshape", "convert"):
        value = value.op.operands[0]
    constant = value.op.constant() if value.op is not None else None
    return None if constant is None or constant.size != 1 else float(constant.reshape(()))


def _then(origin: Origin, step: Step, op: Op) -> Origin:
    return Origin(origin.weight.then(step, op.result.shape, op.result.dtype), origin.layer)


_STEPS = {
    "transpose": _transpose,
    "reshape": _reshape,
    "convert": _convert,
    "slice": _slice,
    "broadcast_in_dim": _broadcast,
}


__all__ = ["Origin", "Provenance"]
