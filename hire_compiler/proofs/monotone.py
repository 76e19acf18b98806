"""Whether elementwise code turns the order of the logits around, by its structure.

What is sorted from the best to the worst is often negated first: the best are still the largest logits. This chooses
candidates only; what is proven of winners follows bounds (``enclosure.py``), not this.
"""

from __future__ import annotations

from hire_compiler.graph.expression import Expression, Instruction

# How a value moves when the first input grows: not at all, up, down (None: nobody knows).
_FIXED, _UP, _DOWN = "fixed", "up", "down"
_INCREASING = frozenset({"convert", "tanh", "logistic", "exponential", "exponential_minus_one", "sign", "cbrt"})
_FLIPPED = {_FIXED: _FIXED, _UP: _DOWN, _DOWN: _UP}


def is_decreasing(expression: Expression) -> bool:
    """Whether the expression never rises when its first input does. Answers no when unsure."""
    return _output_trend(expression) == _DOWN


def _output_trend(expression: Expression) -> str | None:
    trends: list[str | None] = [_UP, *[_FIXED] * (expression.inputs - 1)]
    constants: dict[int, float] = {}
    for number, instruction in enumerate(expression.instructions, start=expression.inputs):
        if instruction.op == "constant":
            assert isinstance(instruction.value, (int, float))
            constants[number] = float(instruction.value)
        elif instruction.op == "convert" and instruction.args[0] in constants:
            constants[number] = constants[instruction.args[0]]
        trends.append(_trend(instruction, [trends[i] for i in instruction.args], constants))
    return trends[expression.output]


def _trend(instruction: Instruction, trends: list[str | None], constants: dict[int, float]) -> str | None:
    op = instruction.op
    if all(trend == _FIXED for trend in trends):
        return _FIXED
    if None in trends:
        return None
    if op in _INCREASING:
        return trends[0]
    if op == "negate":
        return _FLIPPED[str(trends[0])]
    if op == "subtract":
        trends = [trends[0], _FLIPPED[str(trends[1])]]
    if op in ("add", "subtract", "maximum", "minimum", "clamp"):
        moving = {trend for trend in trends if trend != _FIXED}
        return moving.pop() if len(moving) == 1 else None
    if op in ("multiply", "divide"):
        return _scaled(instruction, trends, constants)
    return None


def _scaled(instruction: Instruction, trends: list[str | None], constants: dict[int, float]) -> str | None:
    left, right = instruction.args
    if right in constants:
        trend, factor = trends[0], constants[right]
    elif left in constants and instruction.op == "multiply":
        trend, factor = trends[1], constants[left]
    else:
        return None
    if factor == 0:
        return None
    return trend if factor > 0 else _FLIPPED[str(trend)]
