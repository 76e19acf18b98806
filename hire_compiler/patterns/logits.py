"""The output matrix (LM head) and whatever reads its logits.

::

    x ── dot(w_head) ── [scale, bias, softcap, convert, reshape, last position] ── logits
    logits ── argmax | top_k | softmax | log_softmax | sort | sampling | returned      (one or several)

Found from the product forwards: the logits are followed through everything that keeps one number per
vocabulary row until something reads them. When only winners are read (argmax, top_k), the elementwise code
on the way is captured too, so that it can be repeated on the candidates alone.

Deliberately not matched: products whose result is contracted again (attention, one-hot lookups, experts'
outputs), routers with fewer rows than inputs, fused projections that are cut into parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from hire_compiler.graph import Block, Op, Value
from hire_compiler.patterns.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.match import NoMatch
from hire_compiler.patterns.provenance import TRANSPARENT, Provenance
from hire_compiler.patterns.region import Region, RegionReader

MINIMUM_ROWS = 1024  # fewer rows that are merely returned are features, not a vocabulary


@dataclass(frozen=True, eq=False)
class Winner:
    """A reader of the logits that keeps only the best: ``argmax`` or ``top_k``.

    Attributes:
      kind: which of the two.
      op: the operation; a rewrite replaces its results.
      region: from the product to what it reads, in coordinates ``[batch, vocabulary]``.
      k: how many are kept.
    """

    kind: str
    op: Op
    region: Region
    k: int


@dataclass(frozen=True, eq=False)
class HeadMatch:
    """An LM head, captured.

    Attributes:
      dot: the product; its result is what a rewrite replaces when full logits are read.
      consumers: names of the readers.
      winners: the readers, when all of them keep only the best; else empty.
    """

    dot: WeightDot
    consumers: tuple[str, ...]
    winners: tuple[Winner, ...]


def match_head(op: Op, provenance: Provenance, reader: RegionReader) -> HeadMatch:
    """Match the head that begins with the product ``op``.

    Raises:
      NoMatch: with the reason.
    """
    dot = read_weight_dot(op, provenance)
    rows, d = dot.rows, dot.d
    readers = _Readers(dot)
    if readers.contracted is not None:
        raise NoMatch(f"its result goes into another product ({_where(readers.contracted)})", depth=1)
    if readers.cut is not None:
        raise NoMatch(f"its result is cut into parts along its {rows} rows", depth=1)
    kinds = readers.kinds
    if not kinds & {"argmax", "top_k", "softmax", "log_softmax", "sort", "returned"}:
        raise NoMatch(f"its result is not read as logits but by {', '.join(sorted(kinds)) or 'nothing'}", depth=1)
    if rows <= d:
        raise NoMatch(f"its {rows} rows are no more than its {d} inputs (a router or a projection)", depth=2)
    if kinds <= {"returned", "stored"} and (rows < 2 * d or rows < MINIMUM_ROWS):
        raise NoMatch(f"its {rows} rows for {d} inputs are returned but are no vocabulary", depth=2)
    if dot.weight.layers is not None:
        raise NoMatch("it stands in a loop over layers", depth=2)
    return HeadMatch(dot, tuple(sorted(kinds)), _winners(readers, reader, dot))


def _winners(readers: _Readers, reader: RegionReader, dot: WeightDot) -> tuple[Winner, ...]:
    if not readers.kinds <= {"argmax", "top_k"}:
        return ()
    winners = []
    for kind, op, axis in readers.winners:
        value = op.operands[0]
        try:
            region = reader.read(value, (axis,))
        except NoMatch:
            return ()
        whole = len(region.streams) == 1 and np.array_equal(region.streams[0][1], np.arange(dot.rows))
        if not whole or axis != len(value.shape) - 1:
            return ()
        k = 1 if kind == "argmax" else op.results[0].shape[-1]
        winners.append(Winner(kind, op, region, k))
    together = len({id(winner.op.block) for winner in winners}) == 1
    return tuple(winners) if together else ()


def _where(op: Op) -> str:
    return op.scope or op.name


# --------------------------------------------------------------------------- following the logits

_SHAPE_KEEPING = frozenset({
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "negate", "exponential", "log", "tanh",
    "logistic", "convert", "select", "compare", "and", "or", "not", "clamp", "abs", "log_plus_one",
    "exponential_minus_one", "is_finite", "sqrt", "rsqrt", "sign", "floor", "reduce_precision",
}) | TRANSPARENT  # fmt: skip


class _Readers:
    """Everything that reads the result of a product as one number per row of its weight."""

    def __init__(self, dot: WeightDot) -> None:
        self.winners: list[tuple[str, Op, int]] = []
        self.contracted: Op | None = None
        self.cut: Op | None = None
        self._found: set[str] = set()
        self._seen_ops: set[str] = set()
        self._noise = False
        self._follow(dot)

    @property
    def kinds(self) -> set[str]:
        """Names of the readers."""
        kinds = set(self._found)
        if {"max", "exponential", "sum"} <= kinds | self._seen_ops:
            kinds.add("log_softmax" if "log" in self._seen_ops and "divide" not in self._seen_ops else "softmax")
        kinds -= {"max", "sum"}
        if self._noise and "argmax" in kinds:
            kinds = (kinds - {"argmax"}) | {"sampling", "sort"}
            kinds.discard("sort") if "sort" not in self._found else None
        return kinds | ({"softmax"} if kinds == {"sampling"} else set())

    def _follow(self, dot: WeightDot) -> None:
        axis = _row_axis(dot)
        if axis is None:
            return
        stream = {id(dot.result): axis}
        queue = [dot.result]
        while queue:
            value = queue.pop()
            for op, position in value.uses:
                for result, at in self._pass(op, position, value, stream):
                    if id(result) not in stream:
                        stream[id(result)] = at
                        queue.append(result)

    def _pass(self, op: Op, position: int, value: Value, stream: dict[int, int]) -> list[tuple[Value, int]]:
        axis = stream[id(value)]
        name = op.name
        if name in _SHAPE_KEEPING:
            self._seen_ops.add(name)
            if name == "add" and not _is_simple(op.operands[1 - position], stream):
                self._noise = True
            return [(op.result, axis)] if op.result.shape == value.shape else []
        if name == "transpose":
            return [(op.result, op.ints("permutation").index(axis))]
        if name == "reshape":
            moved = _reshaped_axis(value.shape, op.result.shape, axis)
            return [] if moved is None else [(op.result, moved)]
        if name == "slice":
            size = op.result.shape[axis]
            if size == value.shape[axis]:
                return [(op.result, axis)]
            if size * 2 > value.shape[axis]:  # a vocabulary padded to a round number
                return [(op.result, axis)]
            self.cut = op
            return []
        if name == "broadcast_in_dim":
            return [(op.result, op.ints("broadcast_dimensions")[axis])]
        self._end(op, position, axis, value)
        return []

    def _end(self, op: Op, position: int, axis: int, value: Value) -> None:
        name = op.name
        if name == "dot_general":
            self.contracted = op
        elif name == "reduce":
            self._found.add(self._reduction(op, axis))
        elif name == "chlo.top_k":
            self._found.add("top_k")
            self.winners.append(("top_k", op, axis))
        elif name in ("func.return", "return"):
            self._found.add("returned" if name == "func.return" or value.block is None else "returned")
        elif name == "reduce_window":
            self._found.add("cumsum")
        elif name == "sort":
            self._found.add("sort")
        else:
            self._found.add("stored" if name.startswith(("dynamic_update", "concat", "pad")) else name)

    def _reduction(self, op: Op, axis: int) -> str:
        if op.ints("dimensions") != (axis,):
            return "reduce"
        if len(op.operands) == 4 and is_argmax(op):
            self.winners.append(("argmax", op, axis))
            return "argmax"
        return {"maximum": "max", "add": "sum"}.get(op.blocks[0].ops[0].name, "reduce")


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


def _is_simple(value: Value, stream: dict[int, int]) -> bool:
    """Whether a summand is a bias, a constant, or the logits themselves, and not noise or a residual."""
    while value.op is not None and value.op.name in ("broadcast_in_dim", "convert", "reshape", "constant"):
        if value.op.name == "constant":
            return True
        value = value.op.operands[0]
    return value.op is None or id(value) in stream or value.size == 1


def is_argmax(op: Op) -> bool:
    """Whether a two-operand reduction is argmax with ties to the lowest index, by trying its reducer."""
    values, positions = op.operands[0], op.operands[1]
    if positions.op is None or positions.op.name not in ("iota", "broadcast_in_dim", "reshape"):
        return False
    if not values.dtype.startswith(("float", "bfloat")):
        return False
    body = op.blocks[0]
    cases = [(1.0, 0, 2.0, 1), (2.0, 0, 1.0, 1), (1.0, 0, 1.0, 1), (1.0, 1, 1.0, 0), (-3.0, 5, -2.0, 4)]
    for a, i, b, j in cases:
        best = (a, i) if (a, -i) >= (b, -j) else (b, j)
        try:
            if _run_reducer(body, (a, i, b, j)) != best:
                return False
        except (KeyError, NoMatch):
            return False
    return True


def _run_reducer(body: Block, inputs: tuple[float, int, float, int]) -> tuple[float, int]:
    env: dict[int, object] = {id(arg): v for arg, v in zip(body.args, inputs, strict=True)}
    for op in body.ops[:-1]:
        if op.name == "constant":
            env[id(op.result)] = op.constant()
            continue
        env[id(op.result)] = evaluate_scalar(op, [env[id(operand)] for operand in op.operands])
    first, second = (env[id(value)] for value in body.returned)
    return float(first), int(second)  # type: ignore[arg-type, call-overload]


def evaluate_scalar(op: Op, operands: list[object]) -> object:
    """Evaluate one elementwise operation on NumPy values."""
    from hire_compiler.expression import OPERATIONS, Expression, Instruction

    if op.name not in OPERATIONS:
        raise NoMatch(f"{op.name} is not elementwise")
    direction = op.text("comparison_direction") if op.name == "compare" else None
    instruction = Instruction(op.name, tuple(range(len(operands))), op.result.dtype, direction)
    return Expression(len(operands), (instruction,), len(operands)).evaluate(operands)
