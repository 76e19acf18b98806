"""Which way numbers go where the logits behind them rise: whether the smallest of them are the best.

This says what a program looks for, and which end of a sort. It proves nothing: what is proven of winners follows
bounds. So a number that only the run knows (a temperature, noise) is taken to be positive.
"""

from __future__ import annotations

from collections.abc import Callable

from hire_compiler.graph.graph import Op, Value
from hire_compiler.patterns.operations.layout import LAYOUT

_UP, _DOWN, _FIXED, _EITHER = 1, -1, 0, None
_RISING = frozenset({
    "convert", "tanh", "logistic", "exponential", "exponential_minus_one", "log", "log_plus_one", "sqrt", "cbrt",
    "sign", "maximum", "minimum", "add", "clamp",
})  # fmt: skip
_MOVING = frozenset({*LAYOUT, "gather", "scatter", "dynamic_update_slice"})
_HANDING = frozenset({"while", "case", "if"})
_LOGARITHMS = frozenset({"log", "log_plus_one"})  # of numbers below one, as noise is made: negative
_DEEPEST = 64


def falls(value: Value, follows: Callable[[Value], bool]) -> bool:
    """Whether numbers along the vocabulary fall where the logits rise, as in ``c - z``, ``-z / T`` or ``exp(-z)``.

    Args:
      follows: whether a value comes from the logits and still has their vocabulary.
    """
    return _direction(value, follows, _DEEPEST) == _DOWN


def _direction(value: Value, follows: Callable[[Value], bool], depth: int) -> int | None:
    if not follows(value):
        return _FIXED
    op = value.op
    if op is None or (op.blocks and op.name in _HANDING) or op.name == "dot_general" or depth == 0:
        return _UP  # the logits, or what a loop or a branch makes of them
    if op.name in _MOVING:
        return _direction(op.operands[0], follows, depth - 1) or _UP
    ways = [_direction(operand, follows, depth - 1) for operand in op.operands]
    if op.name == "select":
        return _together(ways[1:])
    if op.name == "negate":
        return _turned(ways[0])
    if op.name == "subtract":
        return _together([ways[0], _turned(ways[1])])
    if op.name in ("multiply", "divide"):
        way = _together([ways[0], _turned(ways[1]) if op.name == "divide" else ways[1]])
        below = [_is_negative(operand) for operand in op.operands if not follows(operand)]
        return _turned(way) if any(below) else way
    return _together(ways) if op.name in _RISING else _EITHER


def _together(ways: list[int | None]) -> int | None:
    """Which way a combination goes that rises with each of its parts."""
    moving = {way for way in ways if way != _FIXED}
    return moving.pop() if len(moving) == 1 else _EITHER if moving else _FIXED


def _turned(way: int | None) -> int | None:
    return None if way is None else -way


def _is_negative(value: Value) -> bool:
    """Whether a number is a constant below zero, or was negated (unless it is a logarithm)."""
    op: Op | None = value.op
    while op is not None and op.name in (*LAYOUT, "convert"):
        op = op.operands[0].op
    if op is None:
        return False
    if op.name == "negate":
        inner = op.operands[0].op
        return inner is None or inner.name not in _LOGARITHMS
    constant = op.constant()
    return constant is not None and bool((constant < 0).all())
