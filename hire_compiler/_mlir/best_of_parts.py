"""The best of numbers that stand side by side: of all parts the best among the best, or of each part its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxlib.mlir import ir

from hire_compiler._mlir.attributes import constant, integer, integers, is_narrow, make_tensor_type, tensor_type
from hire_compiler._mlir.editing import held
from hire_compiler._mlir.functions import emit, filled, splat_again

_JOINING = ("stablehlo.concatenate", "stablehlo.all_gather")
_MOST_PARTS = 16
_STEPS = 64


@dataclass(frozen=True)
class _Joined:
    """What a reduction takes the best of.

    Attributes:
      join: the ``concatenate`` or ``all_gather`` that puts the parts side by side.
      code: elementwise code behind it, in order; its last result is what is reduced.
    """

    join: Any
    code: tuple[Any, ...]


def best_of_parts(op: Any, is_elementwise: Callable[[str], bool], is_part: Callable[[Any], bool]) -> bool:
    """Let an argmax over numbers side by side be one over the best of each part; whether it is such an argmax.

    Args:
      op: a ``reduce`` of numbers and places whose body picks the larger, and of equal ones the first; erased.
      is_elementwise: whether an operation of a name computes each number from those at the same place.
      is_part: whether a value may be a part; beside one that may, numbers that are all the same may, too.
    """
    joined = joined_by(op, is_elementwise, _is_joining)
    if joined is None or not any(map(is_part, joined.join.operands)):
        return False
    if not all(is_part(part) or _is_same_everywhere(part) for part in joined.join.operands):
        return False
    (axis,) = integers(op, "dimensions")
    sizes = [tensor_type(part.type)[0][axis] for part in joined.join.operands]
    starts, is_gathered = [sum(sizes[:i]) for i in range(len(sizes))], joined.join.name == "stablehlo.all_gather"
    if not all(_may_cut(each, axis, joined) for each in joined.code):
        return False
    with ir.InsertionPoint(op), op.location:
        best = [
            _best(op, _part(joined, axis, part, start, size), axis)
            for part, start, size in zip(joined.join.operands, starts, sizes, strict=True)
        ]
        made = _first_of_all(op, joined.join, best, axis, sizes) if is_gathered else _first_of(best, starts)
    for old, new in zip(op.results, made, strict=True):
        old.replace_all_uses_with(new)
    for dead in (op, *reversed(joined.code), joined.join):  # a collective counts as one that has effects
        dead.erase()
    return True


def best_of_each(op: Any, is_elementwise: Callable[[str], bool], is_part: Callable[[Any], bool]) -> bool:
    """Let an argmax of each of several parts, made by a reshape, be as many of slices; whether it is one.

    Args:
      op, is_elementwise, is_part: as of :func:`best_of_parts`.
    """
    joined = joined_by(op, is_elementwise, _is_taking_apart)
    if joined is None or not all(map(is_part, joined.join.operands)):
        return False
    (axis,) = integers(op, "dimensions")
    shape, _ = tensor_type(joined.join.results[0].type)
    whole, size, type_ = joined.join.operands[0], shape[axis], resized(joined.join.results[0].type, axis - 1, 1)

    def own(number: int) -> Any:
        cut = _sliced(whole, len(tensor_type(whole.type)[0]) - 1, number * size, size)
        return emit("stablehlo.reshape", type_, [cut])

    _take_apart(op, joined, axis - 1, axis - 1, [(partial(own, i), 1) for i in range(shape[axis - 1])])
    return True


def best_of_stacked(op: Any, is_elementwise: Callable[[str], bool], is_part: Callable[[Any], bool]) -> bool:
    """Let an argmax of each of several values that are stacked be as many; whether it is one.

    Args:
      op, is_elementwise, is_part: as of :func:`best_of_parts`.
    """
    joined = joined_by(op, is_elementwise, _is_stacking)
    if joined is None or not all(map(is_part, joined.join.operands)):
        return False
    (axis,), along = integers(op, "dimensions"), integer(joined.join, "dimension")
    sizes = [tensor_type(value.type)[0][along] for value in joined.join.operands]
    parts = [(partial(_itself, v), size) for v, size in zip(joined.join.operands, sizes, strict=True)]
    _take_apart(op, joined, along, along - (along > axis), parts)
    return True


def _is_same_everywhere(value: Any) -> bool:
    """Whether an array holds one number, however often."""
    made = None if isinstance(value.owner, ir.Block) else value.owner
    if made is not None and made.name == "stablehlo.constant":
        return bool(getattr(made.attributes["value"], "is_splat", False))
    if made is not None and made.name == "stablehlo.convert":
        return _is_same_everywhere(made.operands[0])
    return made is not None and made.name == "stablehlo.broadcast_in_dim" and not tensor_type(made.operands[0].type)[0]


def _itself(value: Any) -> Any:
    return value


def _take_apart(
    op: Any, joined: _Joined, along: int, kept: int, parts: Sequence[tuple[Callable[[], Any], int]]
) -> None:
    """Let an argmax be as many as there are parts, whose results are put side by side.

    Args:
      op: erased.
      along: the dimension of what is reduced in which the parts lie; ``kept``: the same of the results.
      parts: each is emitted when it is called, at the current insertion point; and its size along that dimension.
    """
    (axis,) = integers(op, "dimensions")
    with ir.InsertionPoint(op), op.location:
        found, start = [], 0
        for emitted, size in parts:
            part = _part(joined, along, emitted(), start, size)
            counted = emit("stablehlo.iota", _like(part, op.operands[1]), [], iota_dimension=number(axis))
            found.append(_reduced(op, [part, counted], kept, size))
            start += size
        for i, result in enumerate(op.results):
            together = emit("stablehlo.concatenate", result.type, [f[i] for f in found], dimension=number(kept))
            result.replace_all_uses_with(together)
    op.erase()


def _is_stacking(made: Any, axis: int) -> bool:
    return made.name == "stablehlo.concatenate" and _axis(made) != axis and _is_small(made)


def _is_joining(made: Any, axis: int) -> bool:
    return made.name in _JOINING and _axis(made) == axis and _is_small(made)


def _is_taking_apart(made: Any, axis: int) -> bool:
    """Whether the last dimension becomes two, of which the later one is reduced."""
    if made.name != "stablehlo.reshape":
        return False
    (shape, _), (before, _) = (tensor_type(v.type) for v in (made.results[0], made.operands[0]))
    if axis != len(shape) - 1 or axis == 0 or not before:
        return False
    return 1 < shape[axis - 1] <= _MOST_PARTS and before[-1] == shape[axis - 1] * shape[axis] and shape[axis] > 1


def _like(value: Any, other: Any) -> Any:
    """The type of an array of one value's shape and another's type."""
    return make_tensor_type(tensor_type(value.type)[0], tensor_type(other.type)[1])


def _reduced(op: Any, operands: Sequence[Any], along: int, size: int) -> list[Any]:
    """The reduction of other operands, which have another length along one of the dimensions that are kept."""
    model = op.clone()
    new = ir.Operation.create(
        op.name,
        results=[resized(result.type, along, size) for result in op.results],
        operands=[*operands, *list(op.operands)[2:]],
        attributes=dict(op.attributes.items()),
        regions=1,
    )
    model.regions[0].blocks[0].append_to(new.regions[0])
    model.erase()
    return list(new.results)


def joined_by(op: Any, is_elementwise: Callable[[str], bool], is_join: Callable[[Any, int], bool]) -> _Joined | None:
    """What an argmax over one axis is taken of, if that is joined along this axis and nothing else reads it."""
    dims = integers(op, "dimensions")
    if len(dims) != 1 or not _counts(op.operands[1], dims[0]):
        return None
    if [_splat(v) for v in op.operands[2:]] != [float("-inf"), 0.0]:
        return None
    value, code = op.operands[0], list[Any]()
    for _ in range(_STEPS):
        made = None if isinstance(value.owner, ir.Block) else value.owner
        if made is None or len(list(value.uses)) != 1 or len(made.results) != 1:
            return None
        if is_join(made, dims[0]):
            return _Joined(made, tuple(reversed(code)))
        wide = [v for v in made.operands if _leads_to_join(v, is_elementwise, lambda up: is_join(up, dims[0]))]
        if not is_elementwise(made.name) or len(wide) != 1:
            return None
        code.append(made)
        value = wide[0]
    return None


def _leads_to_join(value: Any, is_elementwise: Callable[[str], bool], is_join: Callable[[Any], bool]) -> bool:
    """Whether numbers side by side stand above a value."""
    stack, steps = [value], 0
    while stack and steps < _STEPS:
        steps += 1
        top = stack.pop()
        if isinstance(top.owner, ir.Block):
            continue
        if is_join(top.owner):
            return True
        stack += list(top.owner.operands) if is_elementwise(top.owner.name) else []
    return False


def _axis(join: Any) -> int:
    return integer(join, "dimension" if join.name == "stablehlo.concatenate" else "all_gather_dim")


def _is_small(join: Any) -> bool:
    return 1 < len(join.operands) <= _MOST_PARTS if join.name == "stablehlo.concatenate" else len(join.operands) == 1


def _counts(value: Any, axis: int) -> bool:
    made = None if isinstance(value.owner, ir.Block) else value.owner
    return made is not None and made.name == "stablehlo.iota" and integer(made, "iota_dimension") == axis


def _splat(value: Any) -> float | None:
    made = None if isinstance(value.owner, ir.Block) else value.owner
    found = constant(made) if made is not None and made.name == "stablehlo.constant" else None
    return None if found is None or found.size != 1 else float(found.reshape(()))


def _may_cut(op: Any, axis: int, joined: _Joined) -> bool:
    """Whether each operand of elementwise code can be had for a part alone."""
    if joined.join.name == "stablehlo.concatenate":
        return True
    inside = {joined.join.results[0], *(each.results[0] for each in joined.code)}
    return all(v in inside or _is_same_along(v, axis) for v in op.operands)


def _is_same_along(value: Any, axis: int) -> bool:
    """Whether a value is the same everywhere along an axis: a constant, a broadcast."""
    if not tensor_type(value.type)[0]:
        return True
    made = None if isinstance(value.owner, ir.Block) else value.owner
    if made is None:
        return False
    if made.name == "stablehlo.constant":
        return bool(getattr(made.attributes["value"], "is_splat", False))
    if made.name != "stablehlo.broadcast_in_dim":
        return False
    dims, (sizes, _) = integers(made, "broadcast_dimensions"), tensor_type(made.operands[0].type)
    return axis not in dims or sizes[dims.index(axis)] == 1


def _part(joined: _Joined, axis: int, part: Any, start: int, size: int) -> Any:
    """What is compared of one part, at the current insertion point."""
    known = {joined.join.results[0]: part}
    for op in joined.code:
        operands = [known[v] if v in known else _cut(v, axis, start, size) for v in op.operands]
        if op.name == "stablehlo.convert" and _is_rounded(operands[0]):
            operands = [held(operands[0])]  # it is, in front of what joins; next to its product it would not be
        type_ = resized(op.results[0].type, axis, size)
        known[op.results[0]] = emit(op.name, type_, operands, **dict(op.attributes.items()))
    return known[joined.code[-1].results[0]] if joined.code else part


def _is_rounded(value: Any) -> bool:
    """Whether a part is computed in a narrow type, and no join of others."""
    made = None if isinstance(value.owner, ir.Block) else value.owner
    if made is None or made.name in (*_JOINING, "stablehlo.pad") or _is_same_everywhere(value):
        return False
    return is_narrow(value)


def _cut(value: Any, axis: int, start: int, size: int) -> Any:
    """The part of a value that stands beside a part of the numbers."""
    shape, _ = tensor_type(value.type)
    if not shape:
        return value
    made, type_ = value.owner, resized(value.type, axis, size)
    if _is_same_along(value, axis) and made.name == "stablehlo.constant":
        return splat_again(made, type_)
    if _is_same_along(value, axis):
        return emit(made.name, type_, list(made.operands), **dict(made.attributes.items()))
    return _sliced(value, axis, start, size)


def _sliced(value: Any, axis: int, start: int, size: int) -> Any:
    shape, _ = tensor_type(value.type)
    bounds = {
        "start_indices": [start if i == axis else 0 for i in range(len(shape))],
        "limit_indices": [start + size if i == axis else n for i, n in enumerate(shape)],
        "strides": [1] * len(shape),
    }
    cut = {name: ir.DenseI64ArrayAttr.get(numbers) for name, numbers in bounds.items()}
    return emit("stablehlo.slice", resized(value.type, axis, size), [value], **cut)


def _best(op: Any, part: Any, axis: int) -> list[Any]:
    """The best of one part, and its place there."""
    _, dtype = tensor_type(op.operands[1].type)
    shape, _ = tensor_type(part.type)
    counted = emit("stablehlo.iota", make_tensor_type(shape, dtype), [], iota_dimension=number(axis))
    found = op.clone()
    found.operands[0], found.operands[1] = part, counted
    return list(found.results)


def _first_of(best: Sequence[Sequence[Any]], starts: Sequence[int]) -> list[Any]:
    """The best of all parts: a later one where it is larger, or the first that is no number."""
    (value, place), *later = best
    for (other, at), start in zip(later, starts[1:], strict=True):
        at = emit("stablehlo.add", at.type, [at, filled(at.type, start)])
        is_larger, is_none, was_one = (
            _compare(other, value, "GT"),
            _compare(other, other, "NE"),
            _compare(value, value, "EQ"),
        )
        is_first = emit("stablehlo.and", is_none.type, [is_none, was_one])
        is_best = emit("stablehlo.or", is_none.type, [is_larger, is_first])
        value, place = (emit("stablehlo.select", b.type, [is_best, b, a]) for a, b in ((value, other), (place, at)))
    return [value, place]


def _compare(one: Any, other: Any, direction: str) -> Any:
    shape, _ = tensor_type(one.type)
    how = {
        "comparison_direction": ir.Attribute.parse(f"#stablehlo<comparison_direction {direction}>"),
        "compare_type": ir.Attribute.parse("#stablehlo<comparison_type FLOAT>"),
    }
    return emit("stablehlo.compare", make_tensor_type(shape, "bool"), [one, other], **how)


def _first_of_all(op: Any, join: Any, best: Sequence[Sequence[Any]], axis: int, sizes: Sequence[int]) -> list[Any]:
    """The best of all devices: each gathers the numbers and the places of the others."""
    (own,) = best
    (whole, _), (part, _) = (tensor_type(v.type) for v in (join.results[0], join.operands[0]))
    gathered = []
    for value in own:
        _, dtype = tensor_type(value.type)
        kept = emit("stablehlo.reshape", resized(make_tensor_type(part, dtype), axis, 1), [value])
        type_ = resized(kept.type, axis, whole[axis] // part[axis])
        gathered.append(emit(join.name, type_, [kept], **dict(join.attributes.items())))
    values, places = gathered
    counted = emit("stablehlo.iota", places.type, [], iota_dimension=number(axis))
    begins = emit("stablehlo.multiply", places.type, [counted, filled(places.type, sizes[0])])
    places = emit("stablehlo.add", places.type, [places, begins])
    again = op.clone()
    again.operands[0], again.operands[1] = values, places
    return list(again.results)


def resized(type_: Any, axis: int, size: int) -> Any:
    shape, dtype = tensor_type(type_)
    return make_tensor_type(tuple(size if i == axis else n for i, n in enumerate(shape)), dtype)


def number(value: int) -> Any:
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


__all__ = ["best_of_each", "best_of_parts", "best_of_stacked"]
