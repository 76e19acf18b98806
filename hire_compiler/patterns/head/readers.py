"""Follow logits forward to everything that reads them.

Every value on the way is one of a few kinds: the ``logits`` themselves (shifted, scaled, masked: still logits), their
``exp``, ``probabilities`` or ``log_probabilities``, noisy logits (Gumbel), or a number per batch row drawn from them
(``max``, ``sum``, ``logsum``). The readers are the operations where the vocabulary axis ends.
"""

from __future__ import annotations

from collections import deque
from math import prod

import numpy as np

from hire_compiler import _mlir
from hire_compiler.graph.expression import OPERATIONS
from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.direction import falls
from hire_compiler.patterns.operations.listed import is_chosen_from, listed
from hire_compiler.patterns.operations.reducers import is_argmax, position_of, reducer
from hire_compiler.patterns.region.dots import WeightDot

_ELEMENTWISE = OPERATIONS - {"constant"}


class Readers:
    """Everything that reads the result of a product as one number per row of its weight.

    Attributes:
      kinds: names of the readers: ``argmax``, ``top_k``, ``softmax``, ``log_softmax``, ``sort``, ``sampling``,
        ``returned``, a number of the row (``max``, ``sum``, ``logsumexp``), ``part`` for a few of the logits, or the
        name of another operation; ``position`` for where in the vocabulary something stands; ``argmin`` where that is
        the worst of the logits (they are distances, no logits).
      winners: ``(kind, operation, vocabulary axis)`` of every argmax and top_k, and of a max beside them; the kinds are
        those of ``winners.py``.
      best: names of the readers that keep only the best.
      read: the values that something reads while they are still logits, and their vocabulary axes.
      contracted: a product that contracts the result again, if there is one.
      joined: what puts its numbers beside others, if there is such an operation.
      cut: a slice that takes less than half of the rows, or what splits them into
        several dimensions, if there is one.
    """

    def __init__(self, dot: WeightDot) -> None:
        self.kinds: set[str] = set()
        self.winners: list[tuple[str, Op, int]] = []
        self.best: set[str] = {"max"}
        self.read: list[tuple[Value, int]] = []
        self.contracted: Op | None = None
        self.joined: Op | None = None
        self.cut: Op | None = None
        self._maxima: list[tuple[str, Op, int]] = []
        self._is_no_vocabulary = dot.rows <= dot.d  # then only the reason matters
        # axis (None once reduced) and kind of every value on the way
        self._known: dict[int, tuple[int | None, str]] = {}
        self.logits, self.axis = dot.result, _row_axis(dot)
        axis = self.axis
        if axis is None:
            self.cut = dot.op
        else:
            for value in self._follow(dot.result, axis):
                for op, _ in value.uses:
                    self._end(op, *self._known[id(value)])
                at, kind = self._known[id(value)]
                if at is not None and kind == "logits" and any(self._reads(op, value, at) for op, _ in value.uses):
                    self.read.append((value, at))
        if self.winners and "max" in self.kinds:
            self.winners += self._maxima

    def follows(self, value: Value) -> bool:
        """Whether a value comes from the logits."""
        return id(value) in self._known

    def is_noisy(self, value: Value) -> bool:
        """Whether a value is logits with something added that is no bias."""
        return self._known.get(id(value), (None, ""))[1] == "noisy"

    def _has_vocabulary(self, value: Value) -> bool:
        return self._known.get(id(value), (None, ""))[0] is not None

    def _follow(self, logits: Value, axis: int) -> list[Value]:
        """Find the kind of every value on the way; a kind may change while more of its operands become known."""
        self._known[id(logits)] = (axis, "logits")
        queue, found = deque([logits]), [logits]
        while queue:
            value = queue.popleft()  # the nearest first
            for op, _ in value.uses:
                if op.name == "dot_general" and self._is_no_vocabulary:
                    # Through the residual stream it would be followed to the end of the network.
                    self.contracted = op
                    return found
                for result, state in self._pass(op, value):
                    if id(result) not in self._known:
                        found.append(result)
                    if self._known.get(id(result)) != state:
                        self._known[id(result)] = state
                        queue.append(result)
        return found

    def _reads(self, op: Op, value: Value, axis: int) -> bool:
        """Whether an operation reads logits itself; one that picks positions, all rows of each, hands them on."""
        if op.name in ("slice", "dynamic_slice", "gather") and id(op.result) in self._known:
            moved = self._known[id(op.result)][0]
            return moved is None or op.result.shape[moved] != value.shape[axis]
        return op.name not in _PASSED

    def _pass(self, op: Op, value: Value) -> list[tuple[Value, tuple[int | None, str]]]:
        axis, kind = self._known[id(value)]
        name = op.name
        if name in _ELEMENTWISE:
            return [(op.results[0], self._elementwise(op))]
        if axis is None:
            if name in ("broadcast_in_dim", "reshape", "transpose"):
                return [(op.result, (None, kind))]
            return [(passed, (None, kind)) for passed in _carried(op, value)]
        if name == "transpose":
            return [(op.result, (op.ints("permutation").index(axis), kind))]
        if name == "reverse":
            return [(op.result, (axis, kind))]
        if name == "broadcast_in_dim":
            return [(op.result, (op.ints("broadcast_dimensions")[axis], kind))]
        if name == "reshape":
            moved = _reshaped_axis(value.shape, op.result.shape, axis)
            return [] if moved is None else [(op.result, (moved, kind))]
        if name == "slice":
            # More than half is a vocabulary padded to a round number; less is a part of a fused projection.
            return [(op.result, (axis, kind))] if op.result.shape[axis] * 2 > value.shape[axis] else []
        if name == "reduce":
            number = _row_number(op, axis)
            if number == "max" and op not in (known for _, known, _ in self._maxima):
                self._maxima.append(("max", op, axis))
            return [] if number is None else [(op.result, (None, number))]
        if name in ("dynamic_slice", "gather"):
            moved = _picked_axis(op, axis) if op.operands[0] is value else None
            moved = _chosen_list(op, axis) if moved is None and op.operands[0] is value else moved
            return [] if moved is None else [(op.result, (moved, kind))]
        if name in ("scatter", "dynamic_update_slice"):
            # Some entries are changed (a penalty, a forbidden token): still logits.
            return [(op.result, (axis, kind))] if op.operands[0] is value else []
        return [(passed, (axis, kind)) for passed in _carried(op, value)]

    def _elementwise(self, op: Op) -> tuple[int | None, str]:
        states = [self._known[id(operand)] for operand in op.operands if id(operand) in self._known]
        axes = [axis for axis, _ in states if axis is not None]
        kinds = {kind for _, kind in states}
        if not axes:
            # What is made of the largest and of a sum needs the sum.
            return None, "logsum" if op.name == "log" and "sum" in kinds else min(kinds, key=_ROW_NUMBERS.index)
        main = next((kind for axis, kind in states if axis is not None), "logits")
        if op.name == "exponential" and main == "logits":
            return axes[0], "exp"
        if op.name == "divide" and main == "exp" and "sum" in kinds:
            return axes[0], "probabilities"
        if op.name == "subtract" and "logsum" in kinds:
            return axes[0], "log_probabilities"
        unknown = [operand for operand in op.operands if id(operand) not in self._known]
        if op.name == "add" and not all(_is_simple(operand) for operand in unknown):
            return axes[0], "noisy"
        return axes[0], main

    def _end(self, op: Op, axis: int | None, kind: str) -> None:
        """Name the reader, if the vocabulary axis of a value ends in ``op``."""
        name = op.name
        self.kinds |= {"softmax"} if kind == "probabilities" else set()
        self.kinds |= {"log_softmax"} if kind == "log_probabilities" else set()
        if (
            name == "reshape"
            and axis is not None
            and _reshaped_axis(op.operands[0].shape, op.result.shape, axis) is None
        ):
            # A beam search flattens beams and vocabulary into one axis; anything else splits the rows.
            rows = op.operands[0].shape[axis]
            if any(size > rows and size % rows == 0 for size in op.result.shape):
                self.kinds.add("beam_search")
            else:
                self.cut = op
        if name in _PASSED or any(id(result) in self._known for result in op.results):
            return
        if axis is None:
            self._row_number_read(op, kind)
            return
        if name == "slice":
            self.cut = op if op.result.shape[axis] * 2 <= op.operands[0].shape[axis] else self.cut
        elif name == "reduce":
            self._reduction(op, axis, kind)
        elif name == "dot_general":
            self.contracted = op
        elif name == "chlo.top_k":
            self._keeps_best("top_k", "top_k", op, axis)
        elif name in ("func.return", "return"):
            if op.block.owner is not None:
                return  # followed to where the loop or the branch hands it on
            # Probabilities that leave were counted where they were made.
            self.kinds |= {"returned"} if kind in ("logits", "noisy") else set()
        elif name in ("custom_call@ApproxTopK", "custom_call@PartialReduce", "custom_call@approx_top_k"):
            self.kinds.add("approx_top_k")
        elif name == "while":
            return  # followed into its body
        elif name.startswith(("scatter", "dynamic_update", "concatenate", "pad")):
            self.joined = op if name in ("concatenate", "pad") else self.joined
            self.kinds.add("stored")
        else:
            self.kinds.add({"reduce_window": "cumsum"}.get(name, name))

    def _row_number_read(self, op: Op, kind: str) -> None:
        """A number that needs all logits of a row (their largest, their sum, a normaliser) is read by itself."""
        if op.name == "while" or (op.name == "return" and op.block.owner is not None):
            return  # followed to where the loop or the branch hands it on
        self.kinds.add({"max": "max", "sum": "sum", "logsum": "logsumexp"}.get(kind, "row number"))

    def _keeps_best(self, name: str, kind: str, op: Op, axis: int) -> None:
        self.kinds.add(name)
        self.best.add(name)
        self.winners.append((kind, op, axis))

    def _reduction(self, op: Op, axis: int, kind: str) -> None:
        if op.ints("dimensions") == (axis,) and is_argmax(op):
            self._keeps_best("sampling" if kind == "noisy" else "argmax", "argmax", op, axis)
        elif op.ints("dimensions") == (axis,) and _is_position(op):
            smallest = position_of(op) == "minimum" and not falls(op.operands[0], self._has_vocabulary)
            self.kinds.add("argmin" if smallest else "position")
        elif axis not in op.ints("dimensions") and is_argmax(op):
            self.kinds.add("an argmax over another dimension")
        elif _row_number(op, axis) is None:
            self.kinds.add("reduce")


_ROW_NUMBERS = ("logsum", "sum", "max", "noisy", "exp", "probabilities", "log_probabilities", "logits")
_PASSED = _ELEMENTWISE | {"transpose", "broadcast_in_dim", "reshape", "reverse"}


def _row_number(op: Op, axis: int) -> str | None:
    """What a reduction over the vocabulary yields for every batch row: its ``max`` or its ``sum``."""
    if op.ints("dimensions") != (axis,) or len(op.results) != 1:
        return None
    return {"maximum": "max", "add": "sum"}.get(reducer(op) or "")


def _is_position(op: Op) -> bool:
    """Whether a reduction says where the largest or the smallest stands, or the largest of what is made of that."""
    if position_of(op) is not None:
        return True
    return op.results[0].dtype.startswith(("int", "uint")) and reducer(op) in ("maximum", "minimum")


def _row_axis(dot: WeightDot) -> int | None:
    if prod(dot.row_shape) != max(dot.row_shape, default=0):
        return None
    base = 0 if dot.rows_first else len(dot.batch_shape)
    return base + int(np.argmax(dot.row_shape))


def _reshaped_axis(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    leading = prod(before[:axis])
    for candidate, size in enumerate(after):
        if size == before[axis] and prod(after[:candidate]) == leading:
            return candidate
    return None


def _picked_axis(op: Op, axis: int) -> int | None:
    """Where the axis stands after a slice or a gather that takes all of it: one position of a sequence."""
    whole = op.operands[0].shape[axis]
    if op.name == "dynamic_slice":
        return axis if op.result.shape[axis] == whole else None
    if op.ints("slice_sizes")[axis] != whole:
        return None
    return _mlir.gather_result_axis(op.ir, axis)


def _chosen_list(op: Op, axis: int) -> int | None:
    """Where a list of rows stands that a gather picks by their numbers, if the program chooses among them."""
    how = listed(op, axis) if op.name == "gather" else None
    return how.axis if how is not None and is_chosen_from(op.result, how.axis) else None


def _carried(op: Op, value: Value) -> list[Value]:
    """Where a value goes that a loop carries or a branch returns."""
    positions = [i for i, operand in enumerate(op.operands) if operand is value]
    if op.name == "while":
        return [block.args[i] for i in positions for block in op.blocks] + [op.results[i] for i in positions]
    owner = op.block.owner
    if op.name != "return" or owner is None or owner.name not in ("while", "case", "if"):
        return []
    found = [owner.results[i] for i in positions if i < len(owner.results)]
    if owner.name == "while" and op.block is owner.blocks[1]:
        found += [block.args[i] for i in positions for block in owner.blocks]
    return found


def _is_simple(value: Value) -> bool:
    """Whether a summand is a bias or a constant, and not noise or a residual."""
    while value.op is not None and value.op.name in ("broadcast_in_dim", "convert", "reshape", "slice"):
        value = value.op.operands[0]
    return value.op is None or value.op.name == "constant" or value.size == 1
