"""Layout operations of StableHLO, applied to index arrays by NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hire_compiler.graph.graph import Op
from hire_compiler.patterns.operations.match import NoMatch


def _broadcast(index: np.ndarray, op: Op) -> np.ndarray:
    dims, shape = op.ints("broadcast_dimensions"), op.result.shape
    order = sorted(range(len(dims)), key=lambda i: dims[i])
    expanded = [1] * len(shape)
    for axis, dim in enumerate(dims):
        expanded[dim] = index.shape[axis]
    return np.broadcast_to(index.transpose(order).reshape(expanded), shape)


def _slice(index: np.ndarray, op: Op) -> np.ndarray:
    bounds = zip(op.ints("start_indices"), op.ints("limit_indices"), op.ints("strides"), strict=True)
    return index[tuple(slice(start, stop, stride) for start, stop, stride in bounds)]


def _dynamic_slice(index: np.ndarray, op: Op) -> np.ndarray:
    starts = [start.op.constant() if start.op is not None else None for start in op.operands[1:]]
    window = []
    for length, size, start in zip(index.shape, op.result.shape, starts, strict=True):
        if length == size:
            window.append(slice(0, size))
            continue
        if start is None:
            raise NoMatch("a slice at a computed position stands between the matrix products", depth=1)
        first = min(max(int(start), 0), length - size)
        window.append(slice(first, first + size))
    return index[tuple(window)]


LAYOUT: dict[str, Callable[[np.ndarray, Op], np.ndarray]] = {
    "reshape": lambda index, op: index.reshape(op.result.shape),
    "transpose": lambda index, op: index.transpose(op.ints("permutation")),
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "reverse": lambda index, op: np.flip(index, op.ints("dimensions")),
}
