"""Join manual computations: what one hands to the next stays on its devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from hire_compiler._mlir.attributes import make_tensor_type, tensor_type
from hire_compiler._mlir.editing import held
from hire_compiler._mlir.functions import emit, splat_again
from hire_compiler._mlir.shardings import DimensionAxes, dimension_axes, tensor_sharding


@dataclass(frozen=True)
class Entering:
    """A value of the program that the joined body takes.

    Attributes:
      shape: of one device's part.
      axes: the mesh axes that split each dimension.
    """

    value: Any
    shape: tuple[int, ...]
    axes: DimensionAxes


@dataclass(frozen=True)
class Moved:
    """An operation with one result that is computed in the joined body, of one device's part of its operands.

    Attributes:
      shape: of the result there.
    """

    op: Any
    shape: tuple[int, ...]


def result_axes(op: Any) -> list[DimensionAxes]:
    """For every result of a ``sdy.manual_computation``, the mesh axes that split each dimension."""
    return [dimension_axes(one) for one in sdy.TensorShardingPerValueAttr(op.attributes["out_shardings"]).shardings]


def join_manual(
    firsts: Sequence[Any], second: Any, passed: Sequence[int], entering: Sequence[Entering], moved: Sequence[Moved]
) -> Any:
    """Replace manual computations by one, in the place of the last; nothing else may read what the others return.

    Args:
      firsts, second: operations over the same axes of the same mesh; erased.
      passed: operands of ``second`` that come from what ``firsts`` return, through ``moved``.
      entering: what ``moved`` reads beside that.
      moved: in order. Those that follow from ``firsts`` are erased where they stood.
    """
    operands = _Operands(second)
    places = [[operands.add(*pair) for pair in _given(op)] for op in firsts]
    own = [None if i in passed else operands.add(*pair) for i, pair in enumerate(_given(second))]
    entered = [operands.add(e.value, operands.split(e.axes)) for e in entering]
    shardings = sdy.TensorShardingPerValueAttr.get(operands.shardings)
    attributes = {**dict(second.attributes.items()), "in_shardings": shardings}
    with ir.InsertionPoint(second):
        new = ir.Operation.create(
            second.name,
            results=[result.type for result in second.results],
            operands=operands.values,
            attributes=attributes,
            regions=1,
            loc=second.location,
        )
    types = _local_types([*firsts, second], [*places, own], entering, entered)
    body = new.regions[0].blocks.append(*types, arg_locs=[second.location] * len(types))
    known = _Known()
    for op, at in zip(firsts, places, strict=True):
        returned = _move_body(op, body, [body.arguments[i] for i in at])
        known.values |= dict(zip(op.results, returned, strict=True))
    known.values |= {e.value: body.arguments[i] for e, i in zip(entering, entered, strict=True)}
    with ir.InsertionPoint(body):
        for each in moved:
            known.values[each.op.results[0]] = _local(each, known)
        arguments = [known.of(second.operands[i]) if at is None else body.arguments[at] for i, at in enumerate(own)]
    _move_body(second, body, arguments, closing=True)
    for old, made in zip(second.results, new.results, strict=True):
        old.replace_all_uses_with(made)
    second.erase()
    _erase_unread([each.op for each in moved] + known.handed_on)
    for op in firsts:
        op.erase()
    return new


@dataclass
class _Known:
    """What stands in the joined body for values outside.

    Attributes:
      handed_on: operations that hand a value on unchanged, seen through.
    """

    values: dict[Any, Any] = field(default_factory=dict)
    handed_on: list[Any] = field(default_factory=list)

    def of(self, value: Any) -> Any:
        """The value in the body; a barrier is put there again, at the current insertion point."""
        if value not in self.values:
            op = value.owner
            self.handed_on.append(op)
            inner = self.of(op.operands[0])
            self.values[value] = held(inner) if op.name == "stablehlo.optimization_barrier" else inner
        return self.values[value]


def _erase_unread(ops: Sequence[Any]) -> None:
    """Erase what nothing reads, and what then nothing reads any more."""
    left = list(ops)
    while unread := [op for op in left if not any(True for result in op.results for _ in result.uses)]:
        for op in unread:
            op.erase()
        left = [op for op in left if all(op is not other for other in unread)]


@dataclass
class _Operands:
    """The operands of the joined computation, each of them once."""

    second: Any
    values: list[Any] = field(default_factory=list)
    shardings: list[Any] = field(default_factory=list)
    _known: dict[tuple[Any, str], int] = field(default_factory=dict)

    def split(self, axes: DimensionAxes) -> Any:
        """The sharding of an array over the same mesh."""
        one = next(iter(sdy.TensorShardingPerValueAttr(self.second.attributes["in_shardings"]).shardings))
        return tensor_sharding(sdy.TensorShardingAttr(one).mesh_or_ref, axes)

    def add(self, value: Any, sharding: Any) -> int:
        """The number of an operand."""
        key = value, str(sharding)
        if key not in self._known:
            self._known[key] = len(self.values)
            self.values.append(value)
            self.shardings.append(sharding)
        return self._known[key]


def _given(op: Any) -> list[tuple[Any, Any]]:
    """The operands of a manual computation with their shardings."""
    shardings = sdy.TensorShardingPerValueAttr(op.attributes["in_shardings"]).shardings
    return list(zip(op.operands, shardings, strict=True))


def _local_types(
    ops: Sequence[Any], places: Sequence[Sequence[int | None]], entering: Sequence[Entering], entered: Sequence[int]
) -> list[Any]:
    types: dict[int, Any] = {}
    for op, at in zip(ops, places, strict=True):
        for number, argument in zip(at, op.regions[0].blocks[0].arguments, strict=True):
            if number is not None:
                types[number] = argument.type
    for each, number in zip(entering, entered, strict=True):
        types[number] = make_tensor_type(each.shape, tensor_type(each.value.type)[1])
    return [types[i] for i in range(len(types))]


def _move_body(op: Any, body: Any, arguments: Sequence[Any], *, closing: bool = False) -> list[Any]:
    """Move what a manual computation runs to the end of ``body``; what it returned."""
    block = op.regions[0].blocks[0]
    for old, new in zip(block.arguments, arguments, strict=True):
        old.replace_all_uses_with(new)
    *inner, last = (each.operation for each in block.operations)
    returned = list(last.operands)
    for each in [*inner, last] if closing else inner:
        body.append(each)
    return returned


def _local(moved: Moved, known: _Known) -> Any:
    """The operation of one device's part, at the current insertion point."""
    op = moved.op
    type_ = make_tensor_type(moved.shape, tensor_type(op.results[0].type)[1])
    with op.location:
        if op.name == "stablehlo.constant" and type_ != op.results[0].type:
            return splat_again(op, type_)
        return emit(op.name, type_, [known.of(operand) for operand in op.operands], **dict(op.attributes.items()))


__all__ = ["Entering", "Moved", "join_manual", "result_axes"]
