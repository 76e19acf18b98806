"""What a reduction computes, found by trying its body on a few numbers."""

from __future__ import annotations

from hire_compiler.expression import OPERATIONS, Expression, Instruction
from hire_compiler.graph import Block, Op
from hire_compiler.patterns.match import NoMatch


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
        env[id(op.result)] = _evaluate(op, [env[id(operand)] for operand in op.operands])
    first, second = (env[id(value)] for value in body.returned)
    return float(first), int(second)  # type: ignore[arg-type, call-overload]


def _evaluate(op: Op, operands: list[object]) -> object:
    """Evaluate one elementwise operation on NumPy values."""
    if op.name not in OPERATIONS:
        raise NoMatch(f"{op.name} is not elementwise")
    direction = op.text("comparison_direction") if op.name == "compare" else None
    instruction = Instruction(op.name, tuple(range(len(operands))), op.result.dtype, direction)
    return Expression(len(operands), (instruction,), len(operands)).evaluate(operands)
