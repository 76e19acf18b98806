"""What the body of a reduction or of a sort does, proven from its operations.

A body that only compares its arguments with each other, combines what it finds, and picks among them, depends on
nothing but their order. So to run it once for every order that two values (and their two positions) can be in is a
proof, not a sample. Orders that involve NaN are left out: such bodies are not associative there, and what they give
is the compiler's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from hire_compiler.graph.expression import COMPARE
from hire_compiler.graph.graph import Block, Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT

_NEUTRAL = {"add": 0.0, "maximum": -np.inf, "minimum": np.inf, "or": 0.0}
_PAIRS = ((0, 1), (1, 0), (0, 0))  # every order of two numbers


def reducer(op: Op) -> str | None:
    """The operation that a reduction of one operand applies, if that is all it does and it starts from nothing."""
    if len(op.results) != 1 or len(op.operands) != 2:
        return None
    body, initial = op.blocks[0], _splat(op.operands[1])
    if len(body.ops) != 2:
        return None
    only, end = body.ops
    applied = set(map(id, only.operands)) == set(map(id, body.args)) and len(only.operands) == 2
    if not applied or end.operands != only.results or initial != _neutral(only.name, op.operands[0].dtype):
        return None
    return only.name


def is_argmax(op: Op) -> bool:
    """Whether a reduction of floats and positions is argmax with ties to the lowest index."""
    return _is_float(op.operands[0].dtype) and position_of(op) == "maximum"


def position_of(op: Op) -> str | None:
    """Of which extreme ("maximum" or "minimum") a reduction of values and positions gives the first; None: of none."""
    if len(op.operands) != 4 or _splat(op.operands[3]) != 0:
        return None
    if len(op.ints("dimensions")) != 1 or not _counts_up(op.operands[1], op.ints("dimensions")[0]):
        return None
    start, dtype = _splat(op.operands[2]), op.operands[0].dtype
    for extreme, sign in (("maximum", 1), ("minimum", -1)):
        if start == _neutral(extreme, dtype) and _picks(op.blocks[0], sign):
            return extreme
    return None


def picks_the_first_of_the_largest(body: Block) -> bool:
    """Whether a body is that of argmax, with ties to the lowest index."""
    return _picks(body, 1)


def _picks(body: Block, sign: int) -> bool:
    """Whether of two values and positions the larger (``sign`` -1: the smaller) wins, of equal ones the first."""
    for (a, b), (i, j) in product(_PAIRS, _PAIRS):
        best = (a, i) if (sign * a, -i) >= (sign * b, -j) else (b, j)
        if _run(body, (("value", a), ("position", i), ("value", b), ("position", j))) != best:
            return False
    return True


def _neutral(name: str, dtype: str) -> float | None:
    """What changes nothing when it is combined with a number of a type; None: nobody knows."""
    if dtype == "bool":
        return {"maximum": 0.0, "minimum": 1.0, "and": 1.0, "or": 0.0}.get(name)
    if dtype.startswith(("int", "uint")) and name in ("maximum", "minimum"):
        info = np.iinfo(dtype)
        return float(info.min if name == "maximum" else info.max)
    return _NEUTRAL.get(name)


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


def sorts_down(op: Op) -> bool | None:
    """Whether a sort puts the largest of its first operand first; None if it orders by anything else."""
    return orders_down(op.blocks[0], len(op.operands) - 1)


def orders_down(body: Block, others: int) -> bool | None:
    """The same of a body that compares two numbers, with so many others beside each."""
    found = set()
    for (a, b), *rest in product(_PAIRS, repeat=1 + others):
        if a == b:
            continue  # equal values may stand in any order
        more = [(f"operand {i}", value) for i, pair in enumerate(rest) for value in pair]
        first = _run(body, (("value", a), ("value", b), *more))
        found.add(None if first is None else first == (int(a > b),))
    return found.pop() if len(found) == 1 else None


def keeps_ties(op: Op) -> bool:
    """Whether a sort leaves equal numbers of its first operand as they stood: it is stable, and no second key ranks."""
    if "is_stable" not in op.ir.attributes or "true" not in str(op.ir.attributes["is_stable"]):
        return False
    for rest in product(_PAIRS, repeat=len(op.operands) - 1):
        more = [(f"operand {i}", value) for i, pair in enumerate(rest) for value in pair]
        if _run(op.blocks[0], (("value", 0), ("value", 0), *more)) != (0,):
            return False
    return True


def _run(body: Block, inputs: Sequence[tuple[str, int]]) -> tuple[int, ...] | None:
    """What a body returns for some arguments; None if that takes more than to compare and to pick.

    Args:
      inputs: numbers, and of what kind each is: only those of one kind may be compared.
    """
    if len(body.args) != len(inputs):
        return None
    known = {id(arg): value for arg, value in zip(body.args, inputs, strict=True)}
    for op in body.ops[:-1]:
        same = _same(op)
        made = _step(op, known) if same is None else known.get(id(same))
        if made is not None:
            known[id(op.result)] = made
    if any(id(value) not in known for value in body.returned):
        return None
    return tuple(known[id(value)][1] for value in body.returned)


def _step(op: Op, known: Mapping[int, tuple[str, int]]) -> tuple[str, int] | None:
    operands = [known.get(id(operand)) for operand in op.operands]
    if any(operand is None for operand in operands):
        return None
    kinds = [operand[0] for operand in operands if operand is not None]
    numbers = [operand[1] for operand in operands if operand is not None]
    if op.name == "compare" and kinds[0] == kinds[1] != "truth":
        return "truth", int(COMPARE[op.text("comparison_direction")](*numbers))
    if op.name in ("maximum", "minimum") and kinds[0] == kinds[1] != "truth":
        return kinds[0], (max if op.name == "maximum" else min)(numbers)
    if op.name in ("and", "or") and kinds == ["truth", "truth"]:
        return "truth", (min if op.name == "and" else max)(numbers)
    if op.name == "not" and kinds == ["truth"]:
        return "truth", 1 - numbers[0]
    if op.name == "select" and kinds[0] == "truth" and kinds[1] == kinds[2]:
        return kinds[1], numbers[1] if numbers[0] else numbers[2]
    return None


def _same(op: Op) -> Value | None:
    """The value that an operation hands on unchanged as far as its order goes.

    A wider float; or ``where(x == 0, 0, x)`` and ``where(x != x, nan, x)``, with which JAX makes one of both zeros,
    and of all NaNs.
    """
    if op.name == "convert":
        source = op.operands[0]
        wider = {("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64")}
        return source if (source.dtype, op.result.dtype) in wider else None
    if op.name != "select":
        return None
    test, special, value = op.operands
    if test.op is None or test.op.name != "compare":
        return None
    (left, right), constant = test.op.operands, _splat(special)
    tested = test.op.text("comparison_direction")
    if constant is None:
        return None
    root = value
    while root.op is not None and (inner := _same(root.op)) is not None:
        root = inner
    if tested == "EQ" and constant == 0 and {_splat(left), _splat(right)} == {None, 0.0} and root in (left, right):
        return value
    if tested == "NE" and np.isnan(constant) and left is right and left is root:
        return value
    return None


def _counts_up(positions: Value, axis: int) -> bool:
    """Whether a value is 0, 1, 2, … along an axis, the same everywhere else."""
    steps: list[Op] = []
    value = positions
    while value.op is not None and value.op.name in LAYOUT and value.op.name != "dynamic_slice":
        steps.append(value.op)
        value = value.op.operands[0]
    if value.op is None or value.op.name != "iota":
        return False
    own = value.op.int("iota_dimension")
    counted = np.arange(value.shape[own]).reshape([-1 if i == own else 1 for i in range(len(value.shape))])
    index = np.broadcast_to(counted, value.shape)
    for step in reversed(steps):
        index = LAYOUT[step.name](index, step)
    # A view that repeats itself is looked at once: positions of many rows may be a large array.
    once = tuple(slice(0, 1) if i != axis and not step else slice(None) for i, step in enumerate(index.strides))
    shown = np.moveaxis(index[once], axis, -1)
    return index.shape == positions.shape and bool((shown == np.arange(positions.shape[axis])).all())


def _splat(value: Value) -> float | None:
    constant = value.op.constant() if value.op is not None and value.op.name == "constant" else None
    return None if constant is None or constant.size != 1 else float(constant.reshape(()))
