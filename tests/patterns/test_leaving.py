"""Whether a value only leaves the program, however it is moved on its way, or something is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from hire_compiler import _mlir
from hire_compiler.graph.graph import read_graph
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.patterns.operations.leaving import goes_on

Array = jax.Array


def of_sine(made: Callable[[Array, Array], Any]) -> bool:
    """What is said of the one sine of a program; its second argument is something to compare with."""
    text = jax.jit(made).lower(jnp.ones((2, 4)), jnp.ones((2, 4))).as_text()
    with _mlir.fresh_context():
        module = _mlir.parse(text)
        normalize(module)
        (sine,) = [op for op in read_graph(module).ops() if op.name == "sine"]
        return goes_on(sine.result)


def in_a_branch(x: Array, y: Array) -> Array:
    return lax.cond(y.sum() > 0, lambda: jnp.sin(x), lambda: y)


def stored_by_a_loop(x: Array, y: Array) -> Array:
    return lax.scan(lambda c, row: (c, jnp.sin(row)), 0.0, x)[1]


def carried_and_returned(x: Array, y: Array) -> Any:
    return lax.fori_loop(0, 3, lambda i, c: (c[0], c[1] * y), (jnp.sin(x), y))


@pytest.mark.parametrize(
    "made",
    [
        lambda x, y: jnp.sin(x),
        lambda x, y: (jnp.sin(x).T.astype(jnp.bfloat16), y),
        lambda x, y: jnp.sin(x)[:, :1],
        in_a_branch,
        stored_by_a_loop,
        carried_and_returned,
    ],
    ids=["as it is", "moved and converted", "a part", "out of a branch", "out of a loop", "carried"],
)
def test_what_is_only_handed_out_leaves(made: Callable[..., Any]) -> None:
    assert not of_sine(made)


@pytest.mark.parametrize(
    "made",
    [
        lambda x, y: jnp.sin(x) > y,
        lambda x, y: in_a_branch(x, y) > 1,
        lambda x, y: stored_by_a_loop(x, y).max(),
        lambda x, y: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + y, jnp.sin(x)),
        lambda x, y: lax.while_loop(lambda c: c.sum() < 9, lambda c: jnp.sin(c), x),
        lambda x, y: lax.dynamic_slice(y, (jnp.sin(x[0, 0]).astype(int), 0), (1, 4)),
    ],
    ids=["compared", "compared behind a branch", "reduced behind a loop", "added to", "ends a loop", "an index"],
)
def test_what_something_is_made_of_goes_on(made: Callable[..., Any]) -> None:
    assert of_sine(made)
