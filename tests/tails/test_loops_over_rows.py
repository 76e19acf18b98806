"""Loops that sample one batch row after the other, and the long numbers by which noise is drawn in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from hire_compiler.graph.graph import read_graph
from hire_compiler.proofs.enclosure import Unbounded
from hire_compiler.tails.long_numbers import shortened
from tests.support.engine_tails import TAILS, request
from tests.support.hard_rows import D, V, check_tokens

FORMS = ("batch rows one after the other", "a batch row with each key")


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", FORMS)
def test_a_loop_over_batch_rows_is_followed(name: str, rng: np.random.Generator) -> None:
    step = hire.transform(lambda w, x, q: TAILS[name](x @ w.T, q))
    (decision,) = step.report(jnp.ones((V, D)), jnp.ones((2, D)), request(rng, 2, V)).decisions
    assert decision.action == "rewritten"


def test_a_loop_of_many_trips_is_named() -> None:
    step = hire.transform(lambda w, x: TAILS[FORMS[0]](x @ w.T, {}))
    (decision,) = step.report(jnp.ones((V, D)), jnp.ones((17, D))).decisions
    assert "one batch row after the other, in a loop of 17 trips that are not followed one by one" in decision.reason


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", FORMS)
def test_its_tokens_are_those_of_dense(name: str, batch: int, rng: np.random.Generator) -> None:
    (proof,) = check_tokens(TAILS[name], request, rng, rows=3000, batch=batch).certificates
    assert proof.proven >= 0.75 * proof.rows  # some inputs are zero or NaN: of one row a sixth


def long(made: Callable[[], jax.Array]) -> Any:
    with jax.enable_x64(True):
        module = jax.jit(lambda: made().astype(jnp.uint32)).lower().compiler_ir()
        (op,) = [op for op in read_graph(module).main.ops if op.name == "convert"]
        return np.broadcast_to(shortened(op).bounded.bounds.low, op.result.shape)


def counted(*shape: int) -> jax.Array:
    return lax.broadcasted_iota(jnp.uint64, shape, 0)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda: counted(5, 2) * jnp.uint64(2) + lax.broadcasted_iota(jnp.uint64, (5, 2), 1), np.arange(10)),
        (lambda: counted(3) * jnp.uint64(2**31 - 1), np.arange(3) * (2**31 - 1)),
        (lambda: (counted(3) * jnp.uint64(9)) >> jnp.uint64(3), [0, 1, 2]),
        (lambda: counted(3) >> jnp.uint64(32), [0, 0, 0]),
    ],
)
def test_long_numbers_below_two_to_the_32_are_known(made: Callable[[], jax.Array], wanted: Any) -> None:
    np.testing.assert_array_equal(long(made).ravel(), wanted)


@pytest.mark.parametrize(
    "made",
    [
        lambda: counted(4) * jnp.uint64(2**31),
        lambda: (counted(4) * jnp.uint64(2**31)) >> jnp.uint64(32),
        lambda: counted(3) + jnp.uint64(2**32 - 2),
        lambda: counted(3) - jnp.uint64(1),
    ],
)
def test_larger_ones_are_not(made: Callable[[], jax.Array]) -> None:
    with pytest.raises(Unbounded, match="a value of type uint64"):
        long(made)
