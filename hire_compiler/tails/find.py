"""Find the tail of a head in the author's program.

Everything that follows from the product is looked at in order; what touches the vocabulary, and what leads to it,
belongs to the tail. Its ends are the values that go on from there. If all of them are whole numbers or booleans, they
can be proven.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler.graph.graph import Block, Op, Value
from hire_compiler.patterns.operations.approximate import APPROXIMATE, sorted_instead
from hire_compiler.patterns.operations.reducers import reducer
from hire_compiler.proofs.enclosure import Unbounded, arithmetic_for
from hire_compiler.proofs.interval import Enclosure
from hire_compiler.runtime.target import target_for
from hire_compiler.tails.few import WHOLE, is_few, is_finished
from hire_compiler.tails.interpret import Interpreter, outer_values
from hire_compiler.tails.layout import LAYOUT
from hire_compiler.tails.looking import Looking, first_columns
from hire_compiler.tails.program import Tail, following_of
from hire_compiler.tails.spaces import Rows
from hire_compiler.tails.values import Mixed, Plain, Unknown, Wide

_FEW = 64  # operations that are put off
_SMALL = frozenset({"reduce", "reduce_window", "scatter", "sort"})  # whose bodies are one function of two numbers
_LARGE = frozenset({"dot_general", "convolution", "func.return", "return"})


class NoTail(Exception):
    """Why the code behind logits cannot be proven; a sentence for the user."""


def read_tail(logits: Value, axis: int, outputs: Callable[[int], str]) -> Tail:
    """The tail behind some logits.

    Args:
      logits: a value of the program; its other dimensions are the batch.
      axis: its dimension of the vocabulary.
      outputs: how the program's n-th output is called.

    Raises:
      NoTail: something in it cannot be followed, or more than tokens go on from it.
    """
    assert logits.op is not None
    following = following_of(logits)
    finder = _Finder(logits, axis, following, outputs)
    jax.eval_shape(finder.run)
    if finder.mixes:
        finder = _Finder(logits, axis, following, outputs, mixed=True)
        jax.eval_shape(finder.run)
    if finder.failure is not None:
        raise NoTail(finder.failure)
    return finder.tail()


class _Finder:
    """Looks at all that follows, on shapes alone."""

    def __init__(
        self, logits: Value, axis: int, following: list[Op], outputs: Callable[[int], str], *, mixed: bool = False
    ) -> None:
        assert logits.op is not None
        self._logits, self._axis, self._following, self._outputs = logits, axis, following, outputs
        self._block = logits.op.block
        self.failure: str | None = None
        self._captured: dict[int, Value] = {}
        self._zeros: dict[tuple[Any, str], Any] = {}
        self._most = 1
        self._numbers: list[Value] = []
        self._blocked = ""
        self._mixed = mixed
        self._late: dict[int, Op] = {}
        self.mixes = False  # it needs to be looked at again, with the same candidates for all batch rows

    def run(self) -> Any:
        batch = self._logits.size // self._logits.shape[self._axis]
        width = self._logits.shape[self._axis]
        ends = jnp.zeros((batch, width)), jnp.zeros((batch, width))
        few = min(1024, max(width // 2, 1))
        apart_rows = 1 if self._mixed else batch
        ids = jnp.broadcast_to(jnp.arange(few, dtype=jnp.int32), (apart_rows, few))
        looking = Looking(arithmetic_for(target_for("cpu")))
        ids_of = frozenset(id(op) for op in self._following)
        self.points: list[Any] = []
        everyone = Rows(None, None, width, width, shared=self._mixed)
        apart = replace(everyone, ids=ids, chosen=ends[0][:apart_rows] > 0, pick=first_columns)
        for inside, space in ((None, everyone), (Enclosure(ends[0][:, :few], ends[1][:, :few]), apart)):
            self._captured, self._zeros = {}, {}
            self._interpreter = Interpreter(looking, self._block, ids_of, self._given)
            probe = Tail(self._logits, self._axis, (), (), (), (), ids_of, 0, 0)
            self._interpreter.known[id(self._logits)] = probe.start(inside, Enclosure(*ends), space)
            self._look()
            self.points = self._interpreter.points if inside is None else self.points
            if self.failure is not None:
                return 0
        self._follow_numbers()
        self._pull_in()
        return 0

    def _given(self, value: Value) -> Any:
        self._captured.setdefault(id(value), value)
        kind = value.shape, value.dtype  # only shapes are looked at, so one array stands for all of them
        if kind not in self._zeros:
            self._zeros[kind] = jnp.zeros(value.shape, value.dtype)
        return self._zeros[kind]

    def _run(self, op: Op, *, stop: bool = False) -> None:
        """Interpret an operation; if it cannot be followed, what it read on the way was not read.

        It may stand behind the tail, and what it reads as well: then the tail could not be given that.
        """
        tables: tuple[dict[int, Any], ...] = (self._interpreter.known, self._captured)
        before, done = [len(table) for table in tables], len(self._interpreter.done)
        try:
            self._interpreter.run(op, stop=stop)
        except Unbounded:
            for table, count in zip(tables, before, strict=True):
                for key in list(table)[count:]:
                    del table[key]
            del self._interpreter.done[done:]
            raise

    def _look(self) -> None:
        known = self._interpreter.known
        for op in self._following:
            if not any(isinstance(known.get(id(value)), (Wide, Unknown)) for value in outer_values(op)):
                continue
            if all(id(result) in known for result in op.results) and op.results:
                continue
            wide = [shadow for value in outer_values(op) if isinstance(shadow := known.get(id(value)), Wide)]
            if op.name in ("func.return", "return"):
                if all(map(is_few, wide)):
                    continue
                self.failure = self._returned(op, known)
                return
            try:
                self._run(op, stop=bool(wide) and all(map(is_finished, wide)))
            except Unbounded as no:
                if not wide:  # it reads tokens that are not chosen yet: perhaps it comes after all of them
                    known.update({id(value): Unknown(value.shape, value.dtype) for value in op.results})
                    continue
                self.mixes = isinstance(no, Mixed) and not self._mixed
                if wide and all(map(is_finished, wide)):
                    continue  # it reads what has come to an end
                self.failure = (
                    f"{no}{_where(op)} stands between the logits and the token, and no bounds are known of it"
                )
                return
            if op.name in ("chlo.top_k", APPROXIMATE):
                how = sorted_instead(op) if op.name == APPROXIMATE else None
                self._most = max(self._most, op.results[0].shape[-1 if how is None else how.axis])

    def _returned(self, op: Op, known: dict[int, Any]) -> str:
        shadows = [known.get(id(value)) for value in op.operands]
        at = next(i for i, s in enumerate(shadows) if isinstance(s, Wide) and not is_few(s))
        if op.name == "func.return":
            name = self._outputs(at)
            return f"the program returns values of the whole vocabulary as {name}{_unlocked_by(name)}"
        return "values of the whole vocabulary are handed on by a loop or a branch"

    def tail(self) -> Tail:
        """What was found.

        Raises:
          NoTail: more than tokens go on from it.
        """
        done = self._interpreter.done
        inside = {id(op) for op in done}
        ends, read = [], []
        for op in sorted(done, key=lambda op: op.position):
            going = [value for value in op.results if self._goes_on(value, inside)]
            if not going:
                continue
            for value in going:
                self._check_end(value, inside)
            ends.append(op)
            read += going
        if not ends:
            raise NoTail("nothing is read of it")
        if not self.points:
            raise NoTail(self._blocked or "nothing compares its logits")
        last = max(op.position for op in ends)
        for value in read:
            for use, _ in value.uses:
                top = use.holder_in(self._block)
                if id(top) in self._late:
                    continue
                if not self._holds(use, inside) and _position(use, self._block) <= last:
                    raise NoTail(self._blocked or "a token is read before the last of several is known")
        doubt = next(iter(self._interpreter.doubts), "")
        if any(self._is_count(value) for value in read):
            doubt = doubt or "a count of the whole vocabulary"
        return Tail(
            self._logits, self._axis, tuple(done), tuple(ends), tuple(read), tuple(self._captured.values()),
            frozenset(id(op) for op in self._following), self._compared(), self._most, doubt, self._mixed,
            self._interpreter.orders, tuple(self._numbers), self._blocked,
            tuple(sorted(self._late.values(), key=lambda op: op.position)), self._lists(read),
        )  # fmt: skip

    def _lists(self, read: list[Value]) -> bool:
        return any(is_few(self._interpreter.known[id(value)]) for value in read)

    def _compared(self) -> int:
        """How many different values share the candidates."""
        return sum(map(len, self.points)) if self._mixed else len(self.points)

    def _is_count(self, value: Value) -> bool:
        """Whether it says how many of the whole vocabulary are such or such (a rank), give or take a number."""
        op = value.op
        while op is not None and op.name in (*LAYOUT, "convert", "add", "subtract"):
            inner = [operand for operand in op.operands if isinstance(self._interpreter.known.get(id(operand)), Plain)]
            made = [operand for operand in inner if operand.op in self._interpreter.done]
            op = made[0].op if made else None
        if op is None or op.name != "reduce" or reducer(op) != "add":
            return False
        summed = self._interpreter.known.get(id(op.operands[0]))
        return isinstance(summed, Wide) and summed.outside is not None

    def _follow_numbers(self) -> None:
        """Let the tail hold what is made of its numbers, down to the outputs."""
        inside = {id(op) for op in self._interpreter.done}
        made = [value for op in sorted(self._interpreter.done, key=lambda op: op.position) for value in op.results]
        queue = [value for value in made if self._is_number(value) and self._goes_on(value, inside)]
        first, stopped = queue[:1], ""
        while queue:
            for use, _ in queue.pop().uses:
                top = use.holder_in(self._block)
                if top is None or top.name in ("func.return", "return") or top in self._interpreter.done:
                    continue
                try:
                    self._run(top)
                except Unbounded as no:
                    stopped = stopped or f"{no}{_where(top)}"
                    continue
                queue += [value for value in top.results if self._is_number(value)]
        if first:
            self._blocked = self._read_number(first[0], stopped)

    def _is_number(self, value: Value) -> bool:
        """Whether it is no token, and has no vocabulary, or the best of it only."""
        known = self._interpreter.known.get(id(value))
        return (isinstance(known, Plain) or is_few(known)) and value.dtype not in WHOLE

    def _goes_on(self, value: Value, inside: set[int]) -> bool:
        return any(not self._holds(use, inside) for use, _ in value.uses)

    def _pull_in(self) -> None:
        """Let the tail hold what reads its values before it ends; what cannot be followed is put off to its end."""
        while True:
            done = self._interpreter.done
            inside = {id(op) for op in done}
            ends = [op for op in done for value in op.results for use, _ in value.uses if not self._holds(use, inside)]
            last = max((op.position for op in ends), default=-1)
            early = [
                top
                for op in done
                for value in op.results
                for use, _ in value.uses
                if not self._holds(use, inside) and (top := use.holder_in(self._block)) and top.position <= last
            ]
            early = [op for op in early if id(op) not in self._late]
            if not early:
                return
            for op in dict.fromkeys(early):
                try:
                    self._run(op)
                except Unbounded as no:
                    if not self._put_off(op, last, inside):
                        self.failure = f"a token is read by {no}{_where(op)} before the last of several is known"
                        return

    def _put_off(self, op: Op, last: int, inside: set[int]) -> bool:
        """Let an operation, and what follows from it, stand behind the tail, if no part of that follows: whether so."""
        late, queue = {id(op): op}, [op]
        while queue:
            for value in queue.pop().results:
                for use, _ in value.uses:
                    top = use.holder_in(self._block)
                    if top is not None and top.position <= last and id(top) not in late:
                        late[id(top)] = top
                        queue.append(top)
        if len(late) > _FEW or not inside.isdisjoint(late):
            return False
        if any((o.blocks and o.name not in _SMALL) or o.name in _LARGE for o in late.values()):
            return False
        self._late |= late
        return True

    def _holds(self, op: Op, inside: set[int]) -> bool:
        return id(op.holder_in(self._block)) in inside

    def _check_end(self, value: Value, inside: set[int]) -> None:
        known = self._interpreter.known[id(value)]
        assert value.op is not None
        if not isinstance(known, Plain) and not is_few(known):
            raise NoTail(f"values of the whole vocabulary go on from {value.op.name}{_where(value.op)}")
        if value.dtype in WHOLE:
            return
        if any(use.name != "func.return" and not self._holds(use, inside) for use, _ in value.uses):
            raise NoTail(self._blocked)
        self._numbers.append(value)

    def _read_number(self, value: Value, stopped: str) -> str:
        """What keeps numbers from being proven: where they go, or what reads them and cannot be followed."""
        assert value.op is not None
        what = f"a number that is only known between bounds ({value.op.name}{_where(value.op)})"
        paths = outputs_of(value, self._outputs)
        if stopped:
            goes = f", on the way to {', '.join(paths)}{_unlocked_by(*paths)}" if paths else ""
            return f"{what} is read by what is not followed: {stopped}{goes}"
        if paths:
            return f"{what} is returned as {', '.join(paths)}{_unlocked_by(*paths)}"
        return f"{what} is read on"


def _unlocked_by(*names: str) -> str:
    """What lets a head be certified all the same, in quotes that Python and TOML read alike."""
    patterns = "".join(f"{json.dumps(re.escape(name), ensure_ascii=False)}, " for name in names)
    return f" (if nobody reads it: Config(unused=({patterns.rstrip()})) certifies the head)"


def outputs_of(value: Value, outputs: Callable[[int], str]) -> list[str]:
    """How the outputs are called to which a value goes, straight or through other operations."""
    found, queue, seen = [], [value], {id(value)}
    while queue:
        for op, at in queue.pop().uses:
            if op.name == "func.return":
                found.append(outputs(at))
            for result in op.results:
                if id(result) not in seen and len(seen) < 256:
                    seen.add(id(result))
                    queue.append(result)
    return sorted(set(found))[:4]


def _position(op: Op, block: Block) -> int:
    top = op.holder_in(block)
    return -1 if top is None else top.position


def _where(op: Op) -> str:
    return f" (in {op.scope})" if op.scope else ""
