"""Each platform is planned by its own costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.costs import CPU_COSTS
from hire_compiler.runtime.target import stand_in, target_for
from tests.support.drawn import drawn


def relu_block(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def decided(platform: str) -> str:
    """What is done by default with a block that could skip 2 MiB."""
    params = {"up": jnp.zeros((256, 2048), jnp.float32), "down": jnp.zeros((2048, 256), jnp.float32)}
    report = hire.transform(jax.jit(relu_block), platform=platform).report(params, jnp.zeros((1, 256), jnp.float32))
    return report.decisions[0].reason


def test_the_costs_of_the_cpu_are_those_that_were_measured() -> None:
    assert (
        replace(CPU_COSTS, choice_bytes=0, copied_rows=None) == target_for("cpu").costs
    )  # tests plan heads of any size
    assert (CPU_COSTS.choice_bytes, CPU_COSTS.worth_bytes, CPU_COSTS.read_bytes) == (4 << 20, 1 << 20, 256)
    assert (CPU_COSTS.gather_ratio, CPU_COSTS.most_gathered, CPU_COSTS.unpacked_rows) == (2, 3 / 8, 5)


def test_the_cpu_skips_what_other_platforms_read_sooner() -> None:
    assert "room for" in decided("cpu")


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_what_a_cpu_would_skip_is_read_on_a_faster_memory(platform: str) -> None:
    assert "the 2097152 bytes that could be skipped are read sooner than a skip is prepared" in decided(platform)


def test_other_numbers_stand_in_for_a_while() -> None:
    tpu = target_for("tpu")
    with stand_in(replace(tpu, costs=replace(tpu.costs, worth_bytes=1 << 20))):
        assert "room for" in decided("tpu")
    assert target_for("tpu") == tpu
    assert "are read sooner" in decided("tpu")


def greedy(z: jax.Array) -> jax.Array:
    return jnp.argmax(z, -1)


def near_the_best(z: jax.Array) -> jax.Array:
    return jnp.argmax(jnp.where(z >= jnp.max(z, -1, keepdims=True) - 1, z, -jnp.inf), -1)


def above_the_tenth(z: jax.Array) -> jax.Array:
    return jnp.argmax(jnp.where(z < jnp.sort(z, -1)[:, -10:-9], -jnp.inf, z), -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "dtype", "tail", "action"),
    [
        (3, "float32", greedy, "rewritten"),
        (4, "float32", greedy, "dense"),
        (4, "bfloat16", greedy, "rewritten"),
        (4, "float32", near_the_best, "dense"),
        (4, "float32", above_the_tenth, "rewritten"),  # a sort of the vocabulary costs more than the product
    ],
)
def test_a_copy_is_not_read_once_for_each_of_many_rows_by_default(
    rng: np.random.Generator, batch: int, dtype: str, tail: Callable[[jax.Array], jax.Array], action: str
) -> None:
    cpu = target_for("cpu")
    w, x = (drawn(rng.standard_normal(shape), dtype) for shape in ((4096, 64), (batch, 64)))
    step = hire.transform(lambda w, x: tail(x @ w.T))
    with stand_in(replace(cpu, costs=replace(cpu.costs, copied_rows=3))):
        step(w, x)
    (decision,) = step.report().decisions
    assert decision.action == action
    if action == "dense":
        assert "an int8 copy would be read once for each of 4 rows" in decision.reason
