"""Where a predictor puts the rows that win: every predictor of heads can be tried."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.calibration.head_ranks import ranks_of, winners_of

PREDICTORS = [
    hire.LowRank(16, dtype="int8"), hire.Quantized(8), hire.Quantized(6), hire.Quantized(4, columns=8),
    hire.Cascade(hire.LowRank(16), hire.Quantized(8), survivors=64),
]  # fmt: skip


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
def test_a_faithful_copy_puts_the_winner_first(predictor: Any, rng: np.random.Generator) -> None:
    rows, inputs = jnp.asarray(rng.normal(size=(128, 16)), jnp.float32), np.asarray(rng.normal(size=(32, 16)), "f")
    winners = winners_of(rows, inputs, 1)
    ranks = ranks_of(rows, predictor, None, inputs, winners)
    assert ranks.shape == (32, 1)
    assert np.mean(ranks == 0) > 0.7
    assert (ranks < 8).all()
