"""Sums of whole numbers of which some are only known between bounds."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hire_compiler.tails.reductions import Part, _sum

LEAST = np.iinfo(np.int32).min


def part(low: list[int], high: list[int]) -> Part:
    ends = (jnp.asarray([end], jnp.int32) for end in (low, high))
    return Part(*ends, jnp.ones((1, len(low)), bool), jnp.arange(len(low))[None])


def test_a_sum_that_may_wrap_is_not_taken_for_known() -> None:
    """Two rows that may or may not count -2³¹ each: both ends of the sum wrap to the same number."""
    bounds = _sum([part([LEAST, LEAST, LEAST], [LEAST, 0, 0])], "int32")
    assert bounds.low[0, 0] == LEAST
    assert bounds.high[0, 0] == np.iinfo(np.int32).max


def test_a_sum_of_known_numbers_wraps_as_in_dense_and_a_count_stays_a_count() -> None:
    known = _sum([part([LEAST, LEAST], [LEAST, LEAST])], "int32")
    assert known.low[0, 0] == known.high[0, 0] == 0
    count = _sum([part([1, 0, 0], [1, 1, 0])], "int32")
    assert (int(count.low[0, 0]), int(count.high[0, 0])) == (1, 2)
