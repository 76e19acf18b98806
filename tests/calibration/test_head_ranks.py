"""Where a predictor puts the rows that win: every predictor of heads can be tried."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.calibration.head_ranks import ranks_of, winners_of
from hire_compiler.calibration.what_is_compared import what_is_compared
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.tuning.tuned_sites import find_sites
from tests.support.drawn import drawn

PREDICTORS = [
    hire.LowRank(16, dtype="int8"), hire.Quantized(8), hire.Quantized(6), hire.Quantized(4, columns=8),
    hire.Cascade(hire.LowRank(16), hire.Quantized(8), survivors=64),
]  # fmt: skip


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
def test_a_faithful_copy_puts_the_winner_first(predictor: Any, rng: np.random.Generator) -> None:
    rows, inputs = drawn(rng.normal(size=(128, 16)), jnp.float32), np.asarray(rng.normal(size=(32, 16)), "f")
    winners = winners_of(rows, inputs, 1)
    ranks = ranks_of(rows, predictor, None, inputs, winners)
    assert ranks.shape == (32, 1)
    assert np.mean(ranks == 0) > 0.7
    assert (ranks < 8).all()


@pytest.mark.parametrize(
    "tail",
    [
        lambda z, b: -z,
        lambda z, b: 30 * jnp.tanh(z / 30) + b,
        lambda z, b: z[:, :100],
    ],
    ids=["the least", "a bias", "padding"],
)
def test_a_recall_is_of_the_winners_of_what_is_compared(tail: Any, rng: np.random.Generator) -> None:
    p = {
        "w": drawn(rng.normal(size=(128, 16)), jnp.float32),
        "b": jnp.asarray(4 * rng.normal(size=128), jnp.float32),
    }
    inputs = np.asarray(rng.normal(size=(32, 16)), np.float32)

    def head_of(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.argmax(tail(x @ p["w"].T, p["b"]), axis=-1)

    wrapped = UserFunction(head_of)
    leaves, tree = wrapped.flatten((p, jnp.asarray(inputs)), {})
    program = capture(wrapped, leaves, tree)
    values = [*program.constants, *leaves]
    ((head,), _) = find_sites(program, "cpu")
    compared = what_is_compared(head.match, values)
    winners = winners_of(p["w"], inputs, 1, compared)
    assert np.array_equal(winners[:, 0], head_of(p, jnp.asarray(inputs)))
    assert not np.array_equal(winners, winners_of(p["w"], inputs, 1))
    assert np.mean(ranks_of(p["w"], hire.Quantized(8), None, inputs, winners, compared) == 0) > 0.9
