"""Join: a block whose products stand in ``shard_map``s of their own is read as one.

::

    h = shard_map(x @ up)                        up split over columns
    h = relu(h + bias)                           outside, or inside one of the two
    y = shard_map(psum(h @ down))                down split over rows

What the first returns, each device hands to itself: split as the second takes it, and changed by elementwise code
alone. So the two are one computation, in which that code works on one device's part. Whether it leads to a site, who
calls this must see; the program as it was written is left where it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hire_compiler import _mlir
from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import Graph, Op, Value

NAME = "sdy.manual_computation"

_SUMS = frozenset({"all_reduce", "reduce_scatter"})
_SPREADING = frozenset({"broadcast_in_dim", "reshape", "convert", "constant"})  # repeated for one device's part
_DIALECTS = ("stablehlo.", "chlo.")

Split = tuple[tuple[tuple[str, ...], int], ...]  # for each dimension, the axes that split it, and into how many parts


class _Apart(Exception):
    """Two manual computations are no neighbours."""


@dataclass(frozen=True, eq=False)
class Joint:
    """Manual computations that can be one.

    Attributes:
      numbers: theirs among all that stand in no other, in program order; the last is that of ``second``.
      passed: operands of ``second`` that come from ``firsts``.
      entering: values that are read beside them, and how they are split.
      moved: the code between, in order, and how its results are split.
    """

    numbers: tuple[int, ...]
    firsts: tuple[Op, ...]
    second: Op
    passed: tuple[int, ...]
    entering: tuple[tuple[Value, Split], ...]
    moved: tuple[tuple[Op, Split], ...]


def joints(graph: Graph) -> list[Joint]:
    """Neighbours among a program's manual computations, no computation in two of them."""
    manual = [op for op in graph.ops(closed=frozenset({NAME})) if op.name == NAME]
    numbers = {op: i for i, op in enumerate(manual)}
    found: list[Joint] = []
    taken: set[Op] = set()
    for second in manual:
        joint = _joint(second, numbers)
        if joint is not None and taken.isdisjoint((*joint.firsts, second)):
            taken |= {*joint.firsts, second}
            found.append(joint)
    return found


def join(joint: Joint) -> Any:
    """Put one computation in the place of several, in the module behind the graph; the operation."""
    return _mlir.join_manual(
        [op.ir for op in joint.firsts],
        joint.second.ir,
        joint.passed,
        [_mlir.Entering(v.ir, _part(v.shape, split), tuple(a for a, _ in split)) for v, split in joint.entering],
        [_mlir.Moved(op.ir, _part(op.result.shape, split)) for op, split in joint.moved],
    )


def _part(shape: tuple[int, ...], split: Split) -> tuple[int, ...]:
    return tuple(n // parts for n, (_, parts) in zip(shape, split, strict=True))


def _joint(second: Op, numbers: dict[Op, int]) -> Joint | None:
    sums = any(op.name in _SUMS for op in second.blocks[0].ops)
    _, axes = _mlir.manual_shardings(second.ir)
    passed, way = [], _Way(second, numbers)
    for i, (value, own) in enumerate(zip(second.operands, axes, strict=True)):
        if not any(own):
            continue
        inner = second.blocks[0].args[i].shape
        split = tuple((a, n // m) for a, n, m in zip(own, value.shape, inner, strict=True))
        if not sums and any(parts > 1 for _, parts in split):
            continue
        tried = way.copy()
        try:
            if tried.follow(value, split):
                way = tried
                passed.append(i)
        except _Apart:
            continue
    return way.joint(tuple(passed), numbers) if passed and way.is_closed(passed) else None


class _Way:
    """The code between an operand of a manual computation and those from which it comes."""

    def __init__(self, second: Op, numbers: dict[Op, int]) -> None:
        self._second = second
        self._manual = numbers
        self._mesh = _mlir.manual_shardings(second.ir)[0], _mlir.manual_axes(second.ir)
        self._splits: dict[int, Split] = {}
        self._follows: dict[int, bool] = {}
        self._firsts: list[Op] = []
        self._moved: list[tuple[Op, Split]] = []
        self._entering: list[tuple[Value, Split]] = []

    def copy(self) -> _Way:
        """Another way that begins like this one."""
        other = _Way(self._second, self._manual)
        other._splits, other._follows = dict(self._splits), dict(self._follows)
        other._firsts, other._moved, other._entering = list(self._firsts), list(self._moved), list(self._entering)
        return other

    def follow(self, value: Value, split: Split) -> bool:
        """Walk up from a value; whether another manual computation stands there.

        Raises:
          _Apart: it is split otherwise, or a value is needed in two ways.
        """
        if not self._depends(value):
            return False
        stack = [(value, split)]
        while stack:
            top, own = stack.pop()
            known = self._splits.get(id(top))
            if known is not None:
                if known != own:
                    raise _Apart
                continue
            self._splits[id(top)] = own
            stack += self._above(top, own)
        return True

    def is_closed(self, passed: list[int]) -> bool:
        """Whether nothing but the second computation reads what the first ones return, or what follows from it."""
        inside = {*(op for op, _ in self._moved), *self._firsts}
        values = [op.result for op, _ in self._moved if self._depends(op.result)]
        values += [result for op in self._firsts for result in op.results]
        return all(
            op in inside or (op is self._second and at in passed and self._depends(value))
            for value in values
            for op, at in value.uses
        )

    def joint(self, passed: tuple[int, ...], numbers: dict[Op, int]) -> Joint:
        """What is to be joined."""
        firsts = sorted(self._firsts, key=lambda op: op.position)
        moved = sorted(self._moved, key=lambda entry: entry[0].position)
        which = tuple(numbers[op] for op in (*firsts, self._second))
        return Joint(which, tuple(firsts), self._second, passed, tuple(self._entering), tuple(moved))

    def _above(self, value: Value, split: Split) -> Iterator[tuple[Value, Split]]:
        op = value.op
        if op is not None and op in self._manual and self._depends(value):
            self._check_first(op, value, split)
            return
        if op is None or not (self._depends(value) or _may_repeat(op, split)):
            self._entering.append((value, split))
            return
        self._moved.append((op, split))
        for operand in op.operands:
            yield operand, _operand_split(op, operand, split)

    def _check_first(self, op: Op, value: Value, split: Split) -> None:
        axes = _mlir.result_axes(op.ir)[value.index]
        local = op.blocks[0].returned[value.index].shape
        if axes != tuple(a for a, _ in split) or local != _part(value.shape, split):
            raise _Apart
        if op not in self._firsts:
            self._firsts.append(op)

    def _depends(self, value: Value) -> bool:
        """Whether a value follows from a manual computation of the same mesh, through code that can be moved."""
        stack = [value]
        while stack:
            top = stack[-1]
            if id(top) in self._follows:
                stack.pop()
                continue
            op = top.op
            if op is None or op.block is not self._second.block or not (op in self._manual or _may_move(op)):
                self._follows[id(top)] = False
                continue
            if op in self._manual:
                self._follows[id(top)] = self._mesh == (_mlir.manual_shardings(op.ir)[0], _mlir.manual_axes(op.ir))
                continue
            missing = [v for v in op.operands if id(v) not in self._follows]
            stack += missing
            if not missing:
                self._follows[id(top)] = any(self._follows[id(v)] for v in op.operands)
        return self._follows[id(value)]


def _may_move(op: Op) -> bool:
    """Whether an operation computes each number of its result from those at the same place."""
    if len(op.results) != 1 or op.blocks or not str(op.ir.name).startswith(_DIALECTS):
        return False
    return op.name in OPERATIONS and not str(op.ir.name).endswith(("composite", "custom_call"))


def _may_repeat(op: Op, split: Split) -> bool:
    """Whether what does not follow from a manual computation is computed in the joined one, all the same."""
    if op.name not in _SPREADING:
        return False
    if op.name == "reshape":
        return [n for n in op.result.shape if n > 1] == [n for n in op.operands[0].shape if n > 1]
    if op.name == "constant":
        value = op.constant()
        return value is not None and (value.size == 1 or not any(axes for axes, _ in split))
    return True


def _operand_split(op: Op, operand: Value, split: Split) -> Split:
    """How an operand is split where the result of its operation is."""
    whole: tuple[tuple[str, ...], int] = ((), 1)
    if op.name == "broadcast_in_dim":
        sizes, dims = op.result.shape, op.ints("broadcast_dimensions")
        return tuple(split[dim] if n == sizes[dim] else whole for n, dim in zip(operand.shape, dims, strict=True))
    if op.name == "reshape":
        left = iter(s for s, n in zip(split, op.result.shape, strict=True) if n > 1)
        return tuple(next(left) if n > 1 else whole for n in operand.shape)
    return split if len(operand.shape) == len(split) else (whole,) * len(operand.shape)
