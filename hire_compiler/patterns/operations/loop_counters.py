"""What a loop's counter runs through, found by running its arithmetic.

Whatever an author writes to pick a layer (``i``, ``L - 1 - i``, ``arange(L)[i]``, ``where(i < 0, i + L, i)``, a bounds
check around a gather), it is arithmetic on a few scalars that starts from constants. So it is simply executed, for
every trip of the loops it depends on, without any weight or device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hire_compiler.graph.graph import Block, Op, Value
from hire_compiler.patterns.operations.reducers import reducer

_MAX_TRIPS = 4096
_MAX_ELEMENTS = 4096

Env = dict[int, np.ndarray]


class _Unknown(Exception):
    """The value depends on data."""


class _Carried(Exception):
    """The value depends on a carry of a loop that is not simulated yet."""

    def __init__(self, value: Value) -> None:
        self.value = value


class LoopCounters:
    """Answers "which numbers does this scalar run through?", remembering every answer."""

    def __init__(self) -> None:
        self._known: dict[int, np.ndarray | None] = {}

    def values(self, value: Value) -> np.ndarray | None:
        """Every value a scalar takes, one per trip of the loops it depends on (outer loop first).

        Returns:
          One number if it depends on no loop; None if it depends on data, or on a loop whose end does.
        """
        if id(value) not in self._known:
            try:
                found = _run(value)
            except (_Unknown, _Carried):
                found = None
            self._known[id(value)] = found
        return self._known[id(value)]

    @staticmethod
    def array(value: Value) -> np.ndarray | None:
        """A small array that follows from constants alone; None if it follows from data or depends on a loop."""
        try:
            return _evaluate(value, {})
        except (_Unknown, _Carried, ValueError):
            return None


def _run(value: Value) -> np.ndarray:
    envs: list[Env] = [{}]
    simulated: set[Block] = set()
    while True:
        try:
            return np.asarray([_evaluate(value, dict(env)).reshape(()) for env in envs])
        except _Carried as carried:
            body = carried.value.block
            assert body is not None
            if body in simulated:
                raise _Unknown from None
            # An inner loop may start from an outer counter: then that one is asked for while this one is simulated.
            envs = _simulate_outer_first(body, carried.value, envs, simulated)
        except ValueError:
            raise _Unknown from None


def _simulate_outer_first(body: Block, carry: Value, envs: list[Env], simulated: set[Block]) -> list[Env]:
    while True:
        try:
            trips = [{**env, **trip} for env in envs for trip in _simulate(body, carry.index, env)]
        except _Carried as outer:
            around = outer.value.block
            if around is None or around is body or around in simulated:
                raise _Unknown from None
            envs = _simulate_outer_first(around, outer.value, envs, simulated)
            continue
        if not 0 < len(trips) <= _MAX_TRIPS:
            raise _Unknown
        simulated.add(body)
        return trips


def _simulate(body: Block, carry: int, outer: Env) -> list[Env]:
    """The values of a loop's counters at each trip; ``carry`` is one of them, the others are found on the way."""
    loop = body.owner
    if loop is None or loop.name != "while" or loop.blocks[1] is not body:
        raise _Unknown
    cond = loop.blocks[0]
    carries = [carry]
    while True:
        try:
            return _trips(loop, cond, body, carries, outer)
        except _Carried as other:
            if other.value.block not in (cond, body) or other.value.index in carries:
                raise
            carries.append(other.value.index)


def _trips(loop: Op, cond: Block, body: Block, carries: list[int], outer: Env) -> list[Env]:
    state = {i: _evaluate(loop.operands[i], dict(outer)) for i in carries}
    trips: list[Env] = []
    while True:
        test = {**outer, **{id(cond.args[i]): v for i, v in state.items()}}
        if not bool(_evaluate(cond.returned[0], test).reshape(())):
            return trips
        trip = {id(body.args[i]): v for i, v in state.items()}
        trips.append(trip)
        if len(trips) > _MAX_TRIPS:
            raise _Unknown
        state = {i: _evaluate(body.returned[i], {**outer, **trip}) for i in carries}


def _evaluate(value: Value, env: Env) -> np.ndarray:
    """Evaluate a small integer value; ``env`` holds the carries, and collects what is computed."""
    stack = [value]
    while stack:
        top = stack[-1]
        if id(top) in env:
            stack.pop()
            continue
        op = top.op
        if op is None:
            if top.block is not None and top.block.owner is not None:
                raise _Carried(top)
            raise _Unknown
        if top.size > _MAX_ELEMENTS or not (op.name in _RULES or op.name == "constant"):
            raise _Unknown
        missing = [operand for operand in op.operands if id(operand) not in env]
        if missing:
            stack += missing
            continue
        stack.pop()
        env[id(top)] = _apply(op, [env[id(operand)] for operand in op.operands])
    return env[id(value)]


def _apply(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    if op.name == "constant":
        constant = op.constant()
        if constant is None:
            raise _Unknown
        return np.broadcast_to(constant, op.result.shape)
    return _RULES[op.name](op, operands)


def _compare(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    a, b = operands
    order = {"EQ": a == b, "NE": a != b, "LT": a < b, "LE": a <= b, "GT": a > b, "GE": a >= b}
    return np.asarray(order[op.text("comparison_direction")])


def _broadcast(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    dims, shape = op.ints("broadcast_dimensions"), op.result.shape
    expanded = [1] * len(shape)
    for axis, dim in enumerate(dims):
        expanded[dim] = operands[0].shape[axis]
    return np.broadcast_to(operands[0].reshape(expanded), shape)


def _slice(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    bounds = zip(op.ints("start_indices"), op.ints("limit_indices"), op.ints("strides"), strict=True)
    return operands[0][tuple(slice(*b) for b in bounds)]


def _dynamic_slice(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    value, *starts = operands
    window = []
    for length, size, start in zip(value.shape, op.result.shape, starts, strict=True):
        first = min(max(int(start), 0), length - size)
        window.append(slice(first, first + size))
    return value[tuple(window)]


def _iota(op: Op, _operands: list[np.ndarray]) -> np.ndarray:
    shape, axis = op.result.shape, op.int("iota_dimension")
    along = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(along, shape)


def _gather_one(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    """``vector[i]`` as a gather; anything larger is no counter."""
    vector, index = operands
    if vector.ndim != 1 or index.size != 1 or op.result.size != 1:
        raise _Unknown
    at = min(max(int(index.reshape(())), 0), len(vector) - 1)
    return vector[at].reshape(op.result.shape)


def _reduce(op: Op, operands: list[np.ndarray]) -> np.ndarray:
    """The bounds check of a gather: ``and`` over the index's components."""
    if len(op.results) != 1 or reducer(op) != "and":
        raise _Unknown
    return np.asarray(operands[0].all(axis=op.ints("dimensions")))


def _elementwise(function: Callable[..., np.ndarray]) -> Callable[[Op, list[np.ndarray]], np.ndarray]:
    return lambda _op, operands: np.asarray(function(*operands))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not np.issubdtype(a.dtype, np.integer) or (b == 0).any():
        raise _Unknown
    return np.trunc(a / b).astype(a.dtype)


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if (b == 0).any():
        raise _Unknown
    return np.fmod(a, b)


_RULES: dict[str, Callable[[Op, list[np.ndarray]], np.ndarray]] = {
    "add": _elementwise(np.add),
    "subtract": _elementwise(np.subtract),
    "multiply": _elementwise(np.multiply),
    "divide": _elementwise(_divide),
    "remainder": _elementwise(_remainder),
    "minimum": _elementwise(np.minimum),
    "maximum": _elementwise(np.maximum),
    "negate": _elementwise(np.negative),
    "sign": _elementwise(np.sign),
    "abs": _elementwise(np.abs),
    "and": _elementwise(np.bitwise_and),
    "or": _elementwise(np.bitwise_or),
    "not": _elementwise(np.logical_not),
    "select": _elementwise(np.where),
    "clamp": _elementwise(lambda low, x, high: np.minimum(np.maximum(x, low), high)),
    "convert": lambda op, operands: operands[0].astype(op.result.dtype if op.result.dtype != "bfloat16" else "float32"),
    "optimization_barrier": lambda op, operands: operands[0],
    "reshape": lambda op, operands: operands[0].reshape(op.result.shape),
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather_one,
    "iota": _iota,
    "compare": _compare,
    "reduce": _reduce,
}
