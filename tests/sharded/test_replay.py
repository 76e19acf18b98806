"""A kept plan is carried out again on the same mesh, and refused on another."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import mesh_of, place

D, VOCABULARY, WIDTH = 32, 2048, 256


def step(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    x = x + jax.nn.relu(x @ params["up"]) @ params["down"]
    return jax.lax.top_k(x @ params["embed"].T, 4)


def placed(mesh: str, rng: np.random.Generator) -> tuple[dict[str, jax.Array], jax.Array]:
    devices = mesh_of(mesh)
    params = {
        "up": place(devices, rng.standard_normal((D, WIDTH), np.float32), None, "model"),
        "down": place(devices, rng.standard_normal((WIDTH, D), np.float32), "model", None),
        "embed": place(devices, rng.standard_normal((VOCABULARY, D), np.float32), "model", None),
    }
    return params, place(devices, rng.standard_normal((2, D), np.float32))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("spread", [False, True])
def test_shards_are_planned_as_they_were(spread: bool, rng: np.random.Generator) -> None:
    params, x = placed("8", rng)
    rules = (
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.5),
        hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64, certify=True, spread=spread),
    )
    first = hire.transform(jax.jit(step), hire.Config(rules=rules))
    plan = hire.Plan.from_json(first.plan(params, x).to_json())
    again = hire.transform(jax.jit(step), hire.Config(plan=plan))
    for got, wanted in zip(again(params, x), first(params, x), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert again.report().decisions == first.report().decisions
    assert [d.shards for d in again.report().decisions] == [8, 8]
    assert again.prepare(params, x).keys() == first.prepare(params, x).keys()
    other = placed("4", rng)
    with pytest.raises(hire.ConfigError, match=r"the plan of ffn/0 is for 8 shards.*and here are 4"):
        hire.transform(jax.jit(step), hire.Config(plan=plan)).report(*other)
