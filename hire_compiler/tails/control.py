"""Loops and branches of a tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.graph.expression import Instruction
from hire_compiler.graph.graph import Block, Op
from hire_compiler.proofs.enclosure import Bounded, Unbounded
from hire_compiler.proofs.interval import Enclosure, compare, point
from hire_compiler.tails.elementwise import Elementwise
from hire_compiler.tails.values import Plain, Shadow, Wide, is_known, mapped, plain

Run = Callable[[Block, Sequence[Shadow]], list[Shadow]]


def loop(op: Op, operands: Sequence[Shadow], run: Run) -> list[Shadow]:
    """A ``while`` that carries numbers without a vocabulary, and whose end does not depend on the logits.

    Raises:
      Unbounded: anything else.
    """
    if not all(isinstance(operand, Plain) for operand in operands):
        raise Unbounded("while that carries logits")
    start = [operand for operand in operands if isinstance(operand, Plain)]
    condition, body = op.blocks
    exact = [is_known(value) for value in start]

    def values(carry: Sequence[tuple[Any, ...]], exact: Sequence[bool]) -> list[Shadow]:
        return [
            plain(value.shape, point(ends[0]) if known else Enclosure(*ends), value.dtype)
            for value, ends, known in zip(start, carry, exact, strict=True)
        ]

    def packed(value: Shadow, known: bool) -> tuple[Any, ...]:
        assert isinstance(value, Plain)
        if value.bounded.rounds:
            raise Unbounded("while that carries numbers of a narrow type")
        bounds = mapped(value.bounded.bounds, lambda end: jnp.broadcast_to(end, value.shape))
        return (bounds.low,) if known else (bounds.low, bounds.high)

    def step(exact: Sequence[bool]) -> Callable[[Any], Any]:
        def once(carry: Any) -> Any:
            made = run(body, values(carry, exact))
            return tuple(packed(value, known) for value, known in zip(made, exact, strict=True))

        return once

    while True:  # what is exactly known has to stay so
        found: list[bool] = []

        def look(carry: Any, exact: list[bool] = exact, found: list[bool] = found) -> Any:
            made = run(body, values(carry, exact))
            found[:] = [is_known(value) for value in made]
            return 0

        jax.eval_shape(look, tuple(packed(value, known) for value, known in zip(start, exact, strict=True)))
        still = [a and b for a, b in zip(exact, found, strict=True)]
        if still == exact:
            break
        exact = still

    def goes_on(carry: Any) -> Any:
        (check,) = run(condition, values(carry, exact))
        if not is_known(check):
            raise Unbounded("while that ends when the logits say so")
        assert isinstance(check, Plain)
        return check.bounded.bounds.low.reshape(())

    first = tuple(packed(value, known) for value, known in zip(start, exact, strict=True))
    return values(lax.while_loop(goes_on, step(exact), first), exact)


def branch(op: Op, which: Plain, run: Run, elementwise: Elementwise) -> list[Shadow]:
    """A ``case`` or an ``if``: all branches are run, and their results chosen between."""
    made = [run(block, ()) for block in op.blocks]
    results = made[-1]
    bounds = which.bounded.bounds
    for number in range(len(made) - 2, -1, -1):
        number_of = point(jnp.full_like(bounds.low, number)) if op.name == "case" else None
        taken = bounds if number_of is None else compare("EQ", bounds, number_of)
        results = [
            _either(taken, one, other, result.shape, elementwise, exact=is_known(which))
            for one, other, result in zip(made[number], results, op.results, strict=True)
        ]
    return results


def _either(
    taken: Enclosure, one: Shadow, other: Shadow, shape: tuple[int, ...], elementwise: Elementwise, *, exact: bool
) -> Shadow:
    if one is other:
        return one
    spread = mapped(taken, lambda end: end.reshape((1,) * len(shape)))
    check = Plain(shape, Bounded(point(spread.low) if exact else spread, "bool"))
    return elementwise(Instruction("select", (0, 1, 2), one.dtype), [check, _bare(one), _bare(other)], shape)


def _bare(value: Shadow) -> Shadow:
    return replace(value, frame=None) if isinstance(value, (Plain, Wide)) else value
