"""Provenance: follow a dot's operand back to an argument of ``@main``, through layout steps only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hire_compiler.graph import Op, Value
from hire_compiler.patterns.match import NoMatch
from hire_compiler.program import Argument
from hire_compiler.weights import Step, Weight

# Operations that hand their first operand on unchanged.
TRANSPARENT = frozenset({"optimization_barrier", "sdy.sharding_constraint", "custom_call@Sharding"})


@dataclass(frozen=True)
class Origin:
    """A weight, and the loop counter that picks its layer where it is stacked."""

    weight: Weight
    layer: Value | None = None


class Provenance:
    """Answers "which weight is this value?", remembering every answer."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self._arguments = arguments
        self._known: dict[int, Origin | NoMatch] = {}

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
                known = no
            self._known[id(value)] = known
        if isinstance(known, NoMatch):
            raise known
        return known

    def is_weight(self, value: Value) -> bool:
        """Whether :meth:`weight` has an answer."""
        try:
            self.weight(value)
        except NoMatch:
            return False
        return True

    def _trace(self, value: Value) -> Origin:
        op = value.op
        if op is None:
            return self._argument(value)
        if op.name in TRANSPARENT:
            return self.weight(op.operands[value.index])
        follow = _STEPS.get(op.name)
        if follow is None:
            what = "a constant of the module" if op.name == "constant" else f"computed ({op.name})"
            raise NoMatch(f"it is {what}, not a parameter")
        return follow(self.weight(op.operands[0]), op)

    def _argument(self, value: Value) -> Origin:
        assert value.block is not None
        if value.block.owner is not None:
            raise NoMatch("it is carried by a loop that changes it, not a parameter")
        argument = self._arguments[value.index]
        if argument.donated:
            raise NoMatch(f"{argument.name} is donated, so it is state and not a weight")
        return Origin(Weight(value.index, argument.name, value.shape, value.dtype))


def _transpose(origin: Origin, op: Op) -> Origin:
    return _then(origin, Step("transpose", op.ints("permutation")), op)


def _reshape(origin: Origin, op: Op) -> Origin:
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


def _dynamic_slice(origin: Origin, op: Op) -> Origin:
    source, result = op.operands[0].shape, op.result.shape
    moving = [i for i, start in enumerate(op.operands[1:]) if source[i] != result[i] or not _is_constant(start)]
    moving = [i for i in moving if source[i] != result[i] or source[i] != 1]
    if len(moving) != 1 or result[moving[0]] != 1:
        raise NoMatch("it is a dynamic slice of a parameter that is no single layer")
    if origin.layer is not None:
        raise NoMatch("it is picked by two loop counters out of a doubly stacked parameter")
    axis = moving[0]
    weight = origin.weight.then(Step("layer", (axis, source[axis])), result)
    return Origin(weight, op.operands[1 + axis])


def _is_constant(value: Value) -> bool:
    return value.op is not None and value.op.name == "constant"


def _then(origin: Origin, step: Step, op: Op) -> Origin:
    return Origin(origin.weight.then(step, op.result.shape, op.result.dtype), origin.layer)


_STEPS = {
    "transpose": _transpose,
    "reshape": _reshape,
    "convert": _convert,
    "slice": _slice,
    "broadcast_in_dim": _broadcast,
    "dynamic_slice": _dynamic_slice,
}
