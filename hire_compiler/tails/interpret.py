"""Interpret the author's operations on bounds, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from operator import is_
from typing import Any

import jax.numpy as jnp

from hire_compiler.graph.expression import Instruction
from hire_compiler.graph.graph import Block, Op, Value
from hire_compiler.patterns.operations.approximate import APPROXIMATE, sorted_instead
from hire_compiler.patterns.operations.direction import falls
from hire_compiler.patterns.operations.listed import Listed, is_chosen_from, listed, picks
from hire_compiler.patterns.operations.reducers import keeps_ties, position_of, reducer, sorts_down
from hire_compiler.patterns.operations.row_order import counts_rows
from hire_compiler.patterns.region.region import detail
from hire_compiler.proofs.enclosure import Unbounded
from hire_compiler.proofs.interval import Enclosure, point
from hire_compiler.tails.control import branch, loop
from hire_compiler.tails.elementwise import ELEMENTWISE, Elementwise
from hire_compiler.tails.few import as_plain, in_order, is_few, reduced_plain
from hire_compiler.tails.given import captured, constant, counts, counts_back, iota
from hire_compiler.tails.joining import joined
from hire_compiler.tails.layout import LAYOUT, move
from hire_compiler.tails.listing import chosen_list
from hire_compiler.tails.long_numbers import LONG, is_counted, shortened
from hire_compiler.tails.order import sort, top_k
from hire_compiler.tails.permuted import permutation, positions_of, put_back, ranks
from hire_compiler.tails.picking import gather, scatter
from hire_compiler.tails.points import Points
from hire_compiler.tails.ranked import SWAPPED, is_compared_with_its_largest
from hire_compiler.tails.reductions import best, reduce, running_sum
from hire_compiler.tails.spaces import Rows, Space
from hire_compiler.tails.unrolled import Trips, sliced, updated
from hire_compiler.tails.values import Mixed, Plain, Shadow, Sorting, Unknown, Wide, is_known, mapped, plain, positions
from hire_compiler.tails.windows import is_running_sum

_TYPES = ("float32", "bfloat16", "float16", "bool", "int8", "int16", "int32", "uint8", "uint16", "uint32")
_FLOATS = ("float32", "bfloat16", "float16")


class Interpreter:
    """One run of a tail.

    Attributes:
      done: the operations of the block that were interpreted.
      doubts: what seldom leaves one token only, though it can.
      orders: candidates are put in an order.
    """

    def __init__(
        self, elementwise: Elementwise, block: Block, following: frozenset[int], given: Callable[[Value], Any]
    ) -> None:
        """Start with nothing known.

        Args:
          elementwise: under the compiler's arithmetic.
          block: where the product stands; what is defined there or further out is given.
          following: operations of that block which follow from the product.
          given: from values that do not follow from the logits to arrays.
        """
        self._elementwise = elementwise
        self._given = given
        self._block = block
        self._following = following
        self._outer = {id(block)}
        while block.owner is not None:
            block = block.owner.block
            self._outer.add(id(block))
        self.known: dict[int, Shadow] = {}
        self._opposite: dict[int, Shadow] = {}  # values before they were negated
        self._points = Points()
        self._lists: list[tuple[Space, Plain, object, Rows]] = []  # columns, places among them, how; and what they are
        self._trips = Trips()
        self.done: list[Op] = []
        self.doubts: list[str] = []
        self.orders = False

    @property
    def points(self) -> list[Any]:
        """What is compared while there are no candidates yet: upper bounds of all rows, ``[batch or 1, n]`` each."""
        return self._points.arrays

    def read(self, value: Value) -> Shadow:
        """What is known of a value."""
        if id(value) not in self.known:
            self.known[id(value)] = self._first(value)
        return self.known[id(value)]

    def _first(self, value: Value) -> Shadow:
        op = value.op
        if value.dtype not in _TYPES:
            raise Unbounded(f"a value of type {value.dtype}")
        fixed = constant(value)
        if fixed is not None:
            return fixed
        if id(value.block if op is None else op.block) in self._outer and id(op) not in self._following:
            return self._captured(value)
        assert op is not None, "arguments of bodies are known"
        self.run(op)
        return self.known[id(value)]

    def _captured(self, value: Value) -> Shadow:
        op = value.op
        if op is not None and op.name == "broadcast_in_dim" and op.operands[0].size < value.size:
            return move(op, self.read(op.operands[0]))
        return captured(value, jnp.asarray(self._given(value)).reshape(value.shape))

    def run(self, op: Op, *, stop: bool = False) -> None:
        """Interpret one operation; what it reads is found on the way.

        Args:
          stop: do not take the best few for numbers of their own where nothing else can be done with them.

        Raises:
          Unbounded: it cannot be followed; the message names it.
        """
        results = self._results(op, stop=stop)
        cut = any(isinstance(v, Wide) and v.cut for v in (self.known.get(id(read)) for read in op.operands))
        for value, shadow in zip(op.results, results, strict=True):
            self.known[id(value)] = replace(shadow, cut=True) if cut and isinstance(shadow, Wide) else shadow
        if op.block is self._block:
            self.done.append(op)

    def _results(self, op: Op, *, stop: bool) -> Sequence[Shadow]:
        name = op.name
        if name in ("case", "if", "while"):
            for value in _read_from_outside(op):  # before a body is traced, where it would belong to that trace
                self.read(value)
        if name == "while" and self._choosing(op) and not self._trips_of(op):
            return [Unknown(value.shape, value.dtype) for value in op.results]
        if name in ("case", "if"):
            which = self.read(op.operands[0])
            if not isinstance(which, Plain):
                raise Unbounded(f"{name} that the logits decide")
            return branch(op, which, self._body, self._elementwise)
        if name == "convert" and op.operands[0].dtype in LONG:
            return [shortened(op)]
        operands = [self.read(value) for value in op.operands]
        try:
            return self._followed(op, operands)
        except Mixed:
            raise
        except Unbounded:
            bare = [as_plain(o) if isinstance(o, Wide) and is_few(o) else o for o in operands]
            if stop or all(map(is_, bare, operands)):
                raise
            return self._followed(op, bare)

    def _followed(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        name = op.name
        if name == "while":
            count = self._trips_of(op)
            if count:
                return self._unrolled(op, operands, count)
            if any(isinstance(self.known[id(value)], Wide) for value in _read_from_outside(op)):
                self.doubts.append("a threshold that a loop over the vocabulary finds")
            return loop(op, operands, self._body)
        if name == "compare":
            return [self._compared(op, operands)]
        known_before = self._note_opposite(op, operands) if op.operands else None
        if known_before is not None:
            return known_before
        if name in ELEMENTWISE:
            places = {id(value): i for i, value in reversed(list(enumerate(op.operands)))}
            args = tuple(places[id(value)] for value in op.operands)
            instruction = Instruction(name, args, op.result.dtype, detail(op))
            return [self._elementwise(instruction, operands, op.result.shape)]
        if name in LAYOUT:
            made = move(op, operands[0])
            if _mixes(operands[0], made):
                self.doubts.append("a mixture of probabilities of different batch rows")
            return [made]
        if name == "iota":
            return [iota(op)]
        if any(isinstance(operand, Unknown) for operand in operands):
            if name == "scatter" and isinstance(operands[0], Wide):  # candidates are those of before it is known where
                return [replace(operands[0], frame=None)]
            return [Unknown(value.shape, value.dtype) for value in op.results]
        rule = _RULES.get(name)
        if rule is None:
            raise Unbounded(name)
        return rule(self, op, operands)

    def _compared(self, op: Op, operands: list[Shadow]) -> Shadow:
        """A comparison; of two numbers that were negated as it was before, because ranks are known of the largest."""
        direction, opposites = str(detail(op)), [self._opposite.get(id(value)) for value in op.operands]
        turned = [shadow for shadow in opposites if shadow is not None]
        if len(turned) == len(operands) and op.operands[0].dtype in _FLOATS:
            operands, direction = turned, SWAPPED[direction]
        self._thresholds(op, operands, direction)
        args = (0, 0) if op.operands[0] is op.operands[1] else (0, 1)
        return self._elementwise(Instruction(op.name, args, op.result.dtype, direction), operands, op.result.shape)

    def _trips_of(self, op: Op) -> int:
        """How many trips of a loop that reads logits are followed one by one; 0 if none are."""
        wide = [value for value in _read_from_outside(op) if isinstance(self.known[id(value)], Wide)]
        return self._trips.count(op, wide) if wide else 0

    def _unrolled(self, op: Op, operands: list[Shadow], count: int) -> list[Shadow]:
        carry, body = operands, op.blocks[1]
        for trip in range(count):
            self._trips.enter(body, trip, count)
            carry = self._body(body, carry)
        return carry

    def _slice(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        return [sliced(op, operands, self._trips)]

    def _update(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        return [updated(op, operands)]

    def _body(self, block: Block, arguments: Sequence[Shadow]) -> list[Shadow]:
        for value, shadow in zip(block.args, arguments, strict=True):
            self.known[id(value)] = shadow
        inner, lists, opposite = block.ops[:-1], list(self._lists), dict(self._opposite)
        for op in inner:
            for result in op.results:
                self.known.pop(id(result), None)
                self._opposite.pop(id(result), None)
        for op in inner:
            if op.name != "constant" and not any(map(is_counted, op.results)):
                self.run(op)
        made = [self.read(value) for value in block.returned]
        self._lists, self._opposite = lists, opposite  # what is found in a body belongs to its trace
        return made

    def bounds_of(self, value: Value) -> tuple[Any, Any]:
        """Between what a value of the tail lies, in the author's shape."""
        known = self.known[id(value)]
        if isinstance(known, Plain):
            bounds = self._elementwise.rounded(known.bounded)
            return jnp.broadcast_to(bounds.low, value.shape), jnp.broadcast_to(bounds.high, value.shape)
        assert isinstance(known, Wide)
        bounds = as_plain(known).bounded.bounds
        return bounds.low, bounds.high

    # --------------------------------------------------------------------------------------- over the vocabulary

    def _point(self, value: Value, wide: Wide) -> bool:
        """Note what is compared, while candidates are still to be chosen: whether they are."""
        if wide.inside is None:
            self._points.note(value, wide, self._elementwise)
        return wide.inside is None

    def _choosing(self, op: Op) -> bool:
        """Whether an operation reads logits while there are no candidates yet."""
        read = [self.known[id(value)] for value in _read_from_outside(op)]
        return any(isinstance(v, Unknown) or (isinstance(v, Wide) and v.inside is None) for v in read)

    def _thresholds(self, op: Op, operands: list[Shadow], direction: str) -> None:
        """What is compared with a number that only candidates can give decides too which rows matter."""
        largest = is_compared_with_its_largest(direction, operands)
        if largest or any(isinstance(operand, Unknown) for operand in operands):
            for value, operand in zip(op.operands, operands, strict=True):
                if isinstance(operand, Wide) and operand.dtype in _FLOATS:
                    self._point(value, operand)

    def _reduce(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        value = operands[0]
        if not isinstance(value, Wide):
            return reduced_plain(op, value, self._elementwise)
        dims = [dim for dim in op.ints("dimensions") if value.shape[dim] > 1]
        if not dims and value.axis not in op.ints("dimensions") and reducer(op) is not None:
            return [_without(value, op.ints("dimensions"))]  # of one number each
        if dims != [value.axis]:
            raise Unbounded("a reduction that is not one over the vocabulary")
        extreme, shape = position_of(op), op.results[0].shape
        if extreme is not None:
            return self._position(op, value, extreme)
        kind = reducer(op)
        if kind is None:
            raise Unbounded("a reduction of an unusual kind")
        if kind == "minimum" and value.dtype in _FLOATS and self._falls(op.operands[0]):
            return [self._least(op, value)]
        return [reduce(kind, value, self._elementwise, shape)]

    def _least(self, op: Op, value: Wide) -> Shadow:
        """The smallest of what was negated: what was the largest before, remembered so that both can be compared."""
        turned = self._turned(op.operands[0], value)
        largest = reduce("maximum", turned, self._elementwise, op.results[0].shape)
        self._opposite[id(op.operands[0])] = turned
        self._opposite[id(op.results[0])] = largest
        return self._negated(largest)

    def _position(self, op: Op, value: Wide, extreme: str) -> Sequence[Shadow]:
        """Where the largest or the smallest stands, and itself."""
        found = value if extreme == "maximum" else self._turned(op.operands[0], value)
        if self._point(op.operands[0], found):
            return [Unknown(result.shape, result.dtype) for result in op.results]
        largest, position = best(found, self._elementwise, op.results[0].shape, op.results[1].dtype)
        return [largest if extreme == "maximum" else self._negated(largest), position]

    def _sort(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        value, *beside = operands
        down = sorts_down(op)
        again = permutation(value)
        if isinstance(value, Wide) and again is not None and down is False and value.axis == op.int("dimension"):
            return self._inverse(op, value, again)
        if isinstance(value, Plain):
            value = in_order(value, op.int("dimension"))
        if down is None or not isinstance(value, Wide) or op.int("dimension") != value.axis:
            raise Unbounded("sort in an unusual order")
        turned = not down and self._falls(op.operands[0])
        if turned:  # of what was negated the smallest are the best: sorted as it was before
            value, down = self._turned(op.operands[0], value), True
        if self._point(op.operands[0], value):
            return [Unknown(result.shape, result.dtype) for result in op.results]
        self.orders = True
        others = [
            positions(value, read.dtype) if counts(read, value.axis) else other
            for read, other in zip(op.operands[1:], beside, strict=True)
        ]
        stable = keeps_ties(op)
        first, *rest = sort(value, others, self._elementwise, down=down, stable=stable)  # type: ignore[arg-type]
        for number, read in enumerate(op.operands[1:]):
            backwards = counts_back(read, value.axis)
            if backwards or counts(read, value.axis):
                rest[number] = replace(rest[number], sorting=Sorting(value, down, stable, backwards))
        if not turned:
            return [first, *rest]
        self._opposite[id(op.results[0])] = first
        return [self._negated(first), *rest]

    def _inverse(self, op: Op, order: Wide, sorting: Sorting) -> Sequence[Shadow]:
        """The permutation of a sort, sorted itself: positions, and beside them the ranks of all rows."""
        if not all(counts(read, order.axis) for read in op.operands[1:]):
            raise Unbounded("a sort of logits that are sorted already")
        found = [ranks(order, sorting, self._elementwise, read.dtype) for read in op.operands[1:]]
        return [positions_of(order, sorting), *found]

    def _falls(self, value: Value) -> bool:
        """Whether the smallest of some numbers are the best: of what was negated, or taken from something."""
        return falls(value, lambda inner: isinstance(self.known.get(id(inner)), Wide))

    def _turned(self, value: Value, shadow: Wide) -> Wide:
        """Numbers of the opposite sign: as they were before they were negated, where they were."""
        made = self._opposite.get(id(value)) or self._negated(shadow)
        assert isinstance(made, Wide)
        return made

    def _negated(self, shadow: Shadow) -> Shadow:
        return self._elementwise(Instruction("negate", (0,), shadow.dtype), [shadow], shadow.shape)

    def _note_opposite(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow] | None:
        """Remember what a value was before it was negated, also where it only moved since; that is what -(-x) is."""
        source, result = id(op.operands[0]), id(op.results[0])
        before = self._opposite.get(source)
        if op.name == "negate":
            self._opposite[result] = operands[0]
            return None if before is None else [before]
        if before is not None and op.name in LAYOUT:
            self._opposite[result] = move(op, before)
        if isinstance(before, Wide) and op.name == "gather":
            self._opposite[result] = self._gather(op, [before, *operands[1:]])[0]
        return None

    def _top_k(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        value = operands[0]
        if isinstance(value, Plain):
            value = in_order(value, len(value.shape) - 1)
        if not isinstance(value, Wide) or value.axis != len(value.shape) - 1:
            raise Unbounded("top_k along another dimension than the vocabulary")
        if value.dtype != "float32":  # jaxlib 0.11 ranks bfloat16 by numbers that it cuts off instead of rounding them
            raise Unbounded(f"top_k of {value.dtype}")
        if self._point(op.operands[0], value):
            return [Unknown(result.shape, result.dtype) for result in op.results]
        self.orders = True
        numbers = positions(value, op.results[1].dtype)
        return top_k(value, numbers, op.results[0].shape[-1], self._elementwise)

    def _approximate(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        """An approximate top-k that is a sort: of equal numbers any may be first, so winners have to be apart."""
        how, value = sorted_instead(op), operands[0]
        if how is None:
            raise Unbounded("an approximate top-k, which its platform computes in its own way,")
        if isinstance(value, Plain):
            value = in_order(value, how.axis)
        if not isinstance(value, Wide) or value.axis != how.axis or not counts(op.operands[1], how.axis):
            raise Unbounded("an approximate top-k along another dimension than the vocabulary")
        if value.dtype != "float32":  # as of a top-k
            raise Unbounded(f"an approximate top-k of {value.dtype}")
        wanted = value if how.down else self._turned(op.operands[0], value)
        if self._point(op.operands[0], wanted):
            return [Unknown(result.shape, result.dtype) for result in op.results]
        self.orders = True
        numbers, k = positions(wanted, op.results[1].dtype), op.results[0].shape[how.axis]
        best_few, places = top_k(wanted, numbers, k, self._elementwise, stable=False)
        return [best_few if how.down else self._negated(best_few), places]

    def _window(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        value = operands[0]
        if not isinstance(value, Wide) or not is_running_sum(op, value.axis):
            raise Unbounded("reduce_window that is no running sum")
        if value.outside is not None and not value.cut:
            self.doubts.append("a running sum over the whole vocabulary")
        return [running_sum(value, self._elementwise)]

    def _gather(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        value, index = operands
        if isinstance(value, Wide) and isinstance(index, Wide):
            return [put_back(op, value, index, self._elementwise)]
        if not isinstance(value, Wide) or not isinstance(index, Plain):
            raise Unbounded("gather at places that follow from the logits")
        how = listed(op, value.axis) if is_known(index) and isinstance(value.space, Rows) else None
        chosen = how is not None and is_chosen_from(op.result, how.axis)
        if (chosen or op.result.size == prod(value.lead)) and not counts_rows(op, value.axis):
            self.doubts.append("a gather of batch rows in another order, or in one that only the run knows,")
        if how is not None and chosen:
            return [self._list(op, how, value, index)]
        return [gather(op, value, index, self._elementwise)]

    def _list(self, op: Op, how: Listed, value: Wide, index: Plain) -> Wide:
        """What a gather picks as a vocabulary of its own; the same columns of other values are the same vocabulary."""
        way = value.axis, value.shape, op.result.shape, *picks(op)
        before = ((space, own) for space, places, by, own in self._lists if places is index and by == way)
        found = next((own for space, own in before if space.same(value.space)), None)
        made = chosen_list(op, how, value, index, found)
        if found is None and isinstance(made.space, Rows):
            self._lists.append((value.space, index, way, made.space))
        return made

    def _scatter(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        return [scatter(op, operands, self._elementwise)]

    def _concatenate(self, op: Op, operands: list[Shadow]) -> Sequence[Shadow]:
        dim = op.int("dimension")
        if any(isinstance(operand, Wide) for operand in operands):
            return [joined(operands, dim, op.result.shape, self._elementwise)]
        full = []
        for part in operands:
            assert isinstance(part, Plain)
            full.append(mapped(self._elementwise.rounded(part.bounded), partial(jnp.broadcast_to, shape=part.shape)))
        low = jnp.concatenate([b.low for b in full], axis=dim)
        exact = all(b.low is b.high for b in full)
        bounds = point(low) if exact else Enclosure(low, jnp.concatenate([b.high for b in full], axis=dim))
        return [plain(op.result.shape, bounds, op.result.dtype)]


def _without(value: Wide, dims: tuple[int, ...]) -> Wide:
    """A value without some dimensions of length 1."""
    shape = tuple(size for dim, size in enumerate(value.shape) if dim not in dims)
    return replace(value, shape=shape, axis=value.axis - sum(dim < value.axis for dim in dims), frame=None)


def _mixes(before: Shadow, after: Shadow) -> bool:
    """Whether numbers of several batch rows meet that are known up to one unknown number of each row."""
    if not isinstance(before, Wide) or not isinstance(after, Wide) or before.frame is None:
        return False
    apart = isinstance(before.space, Rows) and before.space.shared and after.lead != before.lead
    return after.frame is None or apart


def _read_from_outside(op: Op) -> list[Value]:
    """What an operation and its bodies read from outside, but for numbers that are read when they are converted."""
    return [value for value in outer_values(op) if not is_counted(value)]


def outer_values(op: Op) -> list[Value]:
    """What an operation and its bodies read from outside."""
    inner = {id(value) for each in bodies(op) for value in (*each.args, *(r for o in each.ops for r in o.results))}
    found = list(op.operands)
    found += [value for each in bodies(op) for o in each.ops for value in o.operands if id(value) not in inner]
    return found


def bodies(op: Op) -> list[Block]:
    """Every block inside an operation."""
    return [each for block in op.blocks for each in (block, *(b for o in block.ops for b in bodies(o)))]


_RULES: dict[str, Callable[[Interpreter, Op, list[Shadow]], Sequence[Shadow]]] = {
    "reduce": Interpreter._reduce,
    "sort": Interpreter._sort,
    "chlo.top_k": Interpreter._top_k,
    APPROXIMATE: Interpreter._approximate,
    "reduce_window": Interpreter._window,
    "gather": Interpreter._gather,
    "scatter": Interpreter._scatter,
    "concatenate": Interpreter._concatenate,
    "dynamic_slice": Interpreter._slice,
    "dynamic_update_slice": Interpreter._update,
}
