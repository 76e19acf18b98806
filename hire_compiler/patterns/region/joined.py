"""A ``concatenate`` that slices undo is a layout, of results and of kernels.

::

    [x · w_gate, x · w_up] ── concatenate ── slice, slice        two results
    x · concatenate[w_gate, w_up] ── slice, slice                two kernels
    x · w ── [slices] ── concatenate ── slice, slice             one kernel, laid out anew

Joined terms keep for every element which part it belongs to; elementwise code is applied to each part, and where a
slice leaves one part alone, nothing of the others remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.graph.weight import Step
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import check_product, product_with
from hire_compiler.patterns.region.terms import Joined, Node, Parameter, Stream, Term, map_indices, taken_apart
from hire_compiler.patterns.weights.provenance import Origin, Provenance

_Apply = Callable[[np.ndarray], np.ndarray]


def join(terms: Sequence[Term], shapes: Sequence[tuple[int, ...]], axis: int, what: str) -> Term:
    """The term of a ``concatenate`` of terms of these shapes."""
    sizes = [shape[axis] for shape in shapes]
    whole = tuple(sum(sizes) if i == axis else n for i, n in enumerate(shapes[0]))
    first = terms[0]
    if isinstance(first, Stream) and all(isinstance(t, Stream) and t.dot is first.dot for t in terms):
        rows, batch = (
            _side_by_side([np.broadcast_to(getattr(t, name), s) for t, s in zip(terms, shapes, strict=True)], axis)
            for name in ("rows", "batch")
        )
        return Stream(first.dot, rows, batch)
    if isinstance(first, Parameter) and all(isinstance(t, Parameter) and t.origin == first.origin for t in terms):
        index = [np.broadcast_to(t.index, s) for t, s in zip(terms, shapes, strict=True) if isinstance(t, Parameter)]
        return Parameter(first.origin, _side_by_side(index, axis))
    starts = np.cumsum([0, *sizes])[:-1]
    parts = tuple(
        map_indices(term, _spreading(shape, axis, int(start), whole))
        for term, shape, start in zip(terms, shapes, starts, strict=True)
    )
    along = [-1 if i == axis else 1 for i in range(len(whole))]
    which = np.broadcast_to(np.repeat(np.arange(len(sizes)), sizes).reshape(along), whole)
    return taken_apart(parts, which, what)


def distribute(node: Node) -> Term:
    """An elementwise operation on joined terms, applied to each part.

    Raises:
      NoMatch: its operands are joined in different places.
    """
    joined = [arg for arg in node.args if isinstance(arg, Joined)]
    if not joined:
        return node
    first = joined[0]
    if any(other.which is not first.which and not np.array_equal(other.which, first.which) for other in joined):
        raise NoMatch(f"{first.what} stands between the matrix products", depth=3)
    parts = tuple(
        replace(node, args=tuple(arg.parts[i] if isinstance(arg, Joined) else arg for arg in node.args))
        for i in range(len(first.parts))
    )
    return Joined(parts, first.which, first.what)


def read_joined_product(op: Op, provenance: Provenance) -> Term | None:
    """The term of a product with a kernel that the step joins from several: one stream for each of them.

    None if neither operand is such a kernel.

    Raises:
      NoMatch: the product is none of plain floats.
    """
    for position in (1, 0):
        kernel, other = op.operands[position], op.operands[1 - position]
        found = _kernels(kernel, provenance)
        # The input may be an argument, too; a weight is the larger by far.
        if found is None or (provenance.is_weight(other) and other.size * 2 > kernel.size):
            continue
        check_product(op)
        origins, axis = found
        if axis not in _mlir.dot_dimensions(op.ir)[2 if position == 0 else 3]:
            return _split(op, position, origins, axis)
    return None


def _kernels(value: Value, provenance: Provenance) -> tuple[list[Origin], int] | None:
    """The weights that a kernel is joined from in the step, in its own layout, and the axis; None if it is not."""
    op = value.op
    if op is None or op.name not in ("concatenate", "transpose", "convert"):
        return None
    if op.name == "concatenate":
        weights = all(provenance.is_weight(operand) for operand in op.operands)
        return ([provenance.weight(operand) for operand in op.operands], op.int("dimension")) if weights else None
    found = _kernels(op.operands[0], provenance)
    if found is None:
        return None
    origins, axis = found
    if op.name == "convert":
        return [_then(o, Step("convert", (value.dtype,)), o.weight.shape, value.dtype) for o in origins], axis
    order = op.ints("permutation")
    shapes = [tuple(origin.weight.shape[i] for i in order) for origin in origins]
    steps = [_then(o, Step("transpose", order), s, o.weight.dtype) for o, s in zip(origins, shapes, strict=True)]
    return steps, order.index(axis)


def _split(op: Op, position: int, origins: Sequence[Origin], axis: int) -> Term:
    whole = op.operands[position].shape
    contracting = _mlir.dot_dimensions(op.ir)[2 if position == 0 else 3]
    free = [i for i in range(len(whole)) if i not in contracting]
    at, sizes = free.index(axis), [origin.weight.shape[axis] for origin in origins]
    row_shape = tuple(whole[i] for i in free)
    places = np.indices(row_shape, sparse=True)
    numbers = np.repeat(np.arange(len(sizes)), sizes).reshape([-1 if i == at else 1 for i in range(len(free))])
    parts = []
    for origin, start in zip(origins, np.cumsum([0, *sizes])[:-1], strict=True):
        dot = product_with(op, origin, rows_first=position == 0)
        own = dot.row_shape[at] - 1
        local = [np.clip(place - start, 0, own) if i == at else place for i, place in enumerate(places)]
        rows = np.ravel_multi_index(np.broadcast_arrays(*local), dot.row_shape)
        parts.append(Stream(dot, dot.spread_rows(rows), dot.batch_index()))
    which = parts[0].dot.spread_rows(np.broadcast_to(numbers, row_shape))
    return Joined(tuple(parts), which, "concatenate")


def _then(origin: Origin, step: Step, shape: tuple[int, ...], dtype: str) -> Origin:
    return Origin(origin.weight.then(step, shape, dtype).simplified(), origin.layer)


def _spreading(shape: tuple[int, ...], axis: int, start: int, whole: tuple[int, ...]) -> _Apply:
    """Index arrays of one part in the shape of the whole, repeated outside of its place."""
    places = np.clip(np.arange(whole[axis]) - start, 0, shape[axis] - 1)
    return lambda index: np.broadcast_to(_compact(np.broadcast_to(index, shape), axis).take(places, axis=axis), whole)


def _side_by_side(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """A concatenation that stays a broadcast view along what all of the arrays are broadcast along."""
    shape = tuple(sum(a.shape[axis] for a in arrays) if i == axis else n for i, n in enumerate(arrays[0].shape))
    same = [i != axis and all(a.strides[i] == 0 for a in arrays) for i in range(len(shape))]
    cut = tuple(slice(0, 1) if one else slice(None) for one in same)
    return np.broadcast_to(np.concatenate([a[cut] for a in arrays], axis=axis), shape)


def _compact(index: np.ndarray, axis: int) -> np.ndarray:
    return index[tuple(slice(0, 1) if s == 0 and i != axis else slice(None) for i, s in enumerate(index.strides))]
