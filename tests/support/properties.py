"""What the tests of the three invariants share."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import hire_compiler as hire
from hire_compiler.runtime.predictors import PREDICTOR_ARRAYS
from hire_compiler.runtime.target import target_for
from tests.support.programs import (
    wide,
)

Array = np.ndarray

CPU = target_for("cpu")

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}

FAST = settings(max_examples=3, derandomize=True, **COMMON)  # the same programs in every run of the suite

SLOW = settings(max_examples=400, **COMMON)  # new ones in every run

predictors = st.sampled_from(
    (
        hire.Quantized(bits=8),
        hire.Quantized(bits=4, columns=4),
        hire.LowRank(rank=3, dtype="float32"),
        hire.LowRank(rank=2, dtype="bfloat16"),
        hire.LowRank(rank=3, dtype="int8"),
    )
)


def compiled(function: object, kind: str, **rule: object) -> hire.HireFunction:
    return hire.transform(jax.jit(function), hire.Config(rules=(hire.Rule(kind=kind, max_batch=64, **rule),)))


def the_rewrite(step: hire.HireFunction) -> hire.Decision:
    """The decision of the only site, which has to be rewritten."""
    (decision,) = step.report().decisions
    assert decision.action == "rewritten", decision.reason
    return decision


def predictor_arrays(prepared: dict[str, dict[str, jax.Array]]) -> dict[str, jax.Array]:
    (arrays,) = prepared.values()
    return {name: array for name, array in arrays.items() if name in PREDICTOR_ARRAYS}


def assert_close(got: object, wanted: Array, slack: Array, what: str) -> None:
    got = wide(got)
    assert got.shape == wanted.shape
    assert not np.isnan(got).any(), what
    off = np.abs(got - wanted) - slack
    assert (off <= 0).all(), f"{what}: {np.max(off / slack):.3g} times the slack beyond it"
