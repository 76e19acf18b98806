"""Numbers drawn from all neurons of a batch row: what an explicit or a statistical top-k is made of.

::

    h ── reduce(add) ── ÷ m                     mean; with squares, the standard deviation      (Gemma 3n)
    h ── top_k | sort ── [..., k-1] | min       the k-th largest: the cut of an explicit top-k
"""

from __future__ import annotations

import numpy as np

from hire_compiler.graph.graph import Op
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.operations.reducers import reducer, sorts_down
from hire_compiler.patterns.region.terms import RowNumber, Stream, Term, topological

ROW_OPERATIONS = frozenset({"reduce", "chlo.top_k", "sort"})

_REDUCERS = {"add": "row_sum", "maximum": "row_max", "minimum": "row_min"}


def read_row_operation(op: Op, index: int, term: Term) -> Term:
    """The term of a reduction, a top-k or a sort over neurons.

    Args:
      op: the operation; one of :data:`ROW_OPERATIONS`.
      index: which of its results.
      term: of its first operand.

    Raises:
      NoMatch: it mixes batch rows, covers a part of the neurons, or is of another kind.
    """
    shape = op.operands[0].shape
    if op.name == "reduce":
        return _reduction(op, term, shape)
    axis = len(shape) - 1 if op.name == "chlo.top_k" else op.int("dimension")
    if index != 0 or len(op.operands) > 2:
        raise NoMatch(f"the positions that {op.name} finds are used, not only its values", depth=3)
    batch = _batch_rows(term, shape, (axis,))
    count, length = op.results[0].shape[axis], shape[axis]
    rank = np.arange(count)
    if op.name == "sort":
        down = sorts_down(op)
        if down is None:
            raise NoMatch("a sort in an unusual order stands between the matrix products", depth=2)
        rank = rank if down else length - 1 - rank
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    result = op.results[0].shape
    batch = np.broadcast_to(np.expand_dims(batch, axis), result)
    rank = np.broadcast_to(rank.reshape(along), result)
    return RowNumber("row_rank", term, shape, (axis,), op.results[0].dtype, batch, rank)


def _reduction(op: Op, term: Term, shape: tuple[int, ...]) -> Term:
    dims = op.ints("dimensions")
    kind = _REDUCERS.get(reducer(op) or "")
    if kind is None:
        raise NoMatch("a reduction other than sum, maximum or minimum stands between the matrix products", depth=2)
    if isinstance(term, RowNumber) and term.op == "row_rank":
        # min over the top k is the k-th largest
        pick = {"row_max": np.min, "row_min": np.max}.get(kind)
        if pick is None:
            raise NoMatch("the largest neurons are summed", depth=3)
        batch = _drop(term.batch, dims)
        return RowNumber("row_rank", term.arg, term.shape, term.columns, term.dtype, batch, pick(term.rank, axis=dims))
    if isinstance(term, RowNumber):
        if all(shape[i] == 1 for i in dims):
            dropped = (_drop(term.batch, dims), _drop(term.rank, dims))
            return RowNumber(term.op, term.arg, term.shape, term.columns, term.dtype, *dropped)
        raise NoMatch("a number of each batch row is reduced again", depth=3)
    batch = _batch_rows(term, shape, dims)
    return RowNumber(kind, term, shape, dims, op.result.dtype, batch, np.zeros(batch.shape, np.int64))


def _drop(index: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    for axis in sorted(dims, reverse=True):
        index = index.take(0, axis=axis)
    return index


def _batch_rows(term: Term, shape: tuple[int, ...], dims: tuple[int, ...]) -> np.ndarray:
    """The batch row of every element that is left when the neurons in ``dims`` are reduced away."""
    found: np.ndarray | None = None
    for leaf in topological(term):
        if isinstance(leaf, (Stream, RowNumber)):
            batch = np.broadcast_to(leaf.batch, shape)
            first = _drop(batch, dims)
            if not (batch == np.expand_dims(first, tuple(sorted(dims)))).all():
                raise NoMatch("a reduction over batch rows stands between the matrix products", depth=2)
            if isinstance(leaf, Stream):
                _check_whole(leaf, shape, dims)
            found = first
    if found is None:
        raise NoMatch("a reduction of parameters stands between the matrix products", depth=1)
    return found


def _check_whole(stream: Stream, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    rows = np.broadcast_to(stream.rows, shape)
    kept = tuple(i for i in range(len(shape)) if i not in dims)
    first = rows[tuple(slice(None) if i in dims else 0 for i in range(len(shape)))]
    if not (rows == np.expand_dims(first, kept)).all():
        raise NoMatch("a reduction over a part of the neurons (a normalisation in groups) stands between", depth=2)
