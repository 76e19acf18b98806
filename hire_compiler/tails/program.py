"""The tail of a head: from its logits to the tokens, as operations of the author's program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hire_compiler.graph.graph import Op, Value
from hire_compiler.proofs.enclosure import Arithmetic, Bounded
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.interpret import Interpreter
from hire_compiler.tails.spaces import Rows
from hire_compiler.tails.values import Wide


@dataclass(frozen=True, eq=False)
class Tail:
    """The code between logits and tokens.

    Attributes:
      logits: where it begins: the product's result, or the part of its batch rows that is read.
      axis: the dimension of the vocabulary.
      ops: its operations, in an order in which they can run.
      ends: the operations whose results go on from it.
      read: which values go on.
      captured: values that it reads and that do not follow from the logits.
      points: how many different values are compared.
      most: the most of the best that any operation keeps (``top_k``).
      doubt: what in it seldom leaves one token only, or ''.
      mixed: it mixes batch rows (guidance), so all of them have the same candidates.
      orders: it puts candidates in an order, by a sort or a ``top_k``.
      numbers: those of ``read`` that are no tokens: they are only known between bounds.
      blocked: why it cannot be proven as it is, because of them; or ''.
      lists: the best few go on from it as they are, not only tokens that are drawn from them.
      late: operations that read tokens before the last of them is known, and have to stand behind it.
    """

    logits: Value
    axis: int
    ops: tuple[Op, ...]
    ends: tuple[Op, ...]
    read: tuple[Value, ...]
    captured: tuple[Value, ...]
    following: frozenset[int]
    points: int
    most: int
    doubt: str = ""
    mixed: bool = False
    orders: bool = False
    numbers: tuple[Value, ...] = ()
    blocked: str = ""
    late: tuple[Op, ...] = ()
    lists: bool = False

    @property
    def rows(self) -> int:
        """How many batch rows there are."""
        return self.logits.size // self.logits.shape[self.axis]

    @property
    def width(self) -> int:
        """How many rows of the vocabulary there are."""
        return self.logits.shape[self.axis]

    def start(self, inside: Enclosure | None, outside: Enclosure, space: Rows) -> Wide:
        """The logits between bounds, before they are rounded to the author's type."""
        dtype = self.logits.dtype
        rounds = dtype in ("bfloat16", "float16")
        inner = None if inside is None else Bounded(inside, dtype, rounds)
        return Wide(self.logits.shape, self.axis, space, inner, Bounded(outside, dtype, rounds))

    def interpret(self, start: Wide, arithmetic: Arithmetic, captured: Sequence[Any]) -> Interpreter:
        """Run it on bounds; what is known of its values is in the interpreter then."""
        arrays = {id(value): array for value, array in zip(self.captured, captured, strict=True)}
        first = self.logits.op
        assert first is not None
        run = Interpreter(Elementwise(arithmetic), first.block, self.following, lambda value: arrays[id(value)])
        run.known[id(self.logits)] = start
        for op in self.ops:
            run.run(op)
        return run


def following_of(logits: Value) -> list[Op]:
    """The operations of the logits' block that follow from them (or hold one that does), in order."""
    assert logits.op is not None
    block = logits.op.block
    found: dict[int, Op] = {}
    queue = [logits]
    while queue:
        for op, _ in queue.pop().uses:
            top = op.holder_in(block)
            if top is not None and id(top) not in found and top.position >= logits.op.position:
                found[id(top)] = top
                queue += top.results
    return sorted(found.values(), key=lambda op: op.position)
