"""Weights that every device has to gather in each step (FSDP): never more bytes than the author's own program moves."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import mesh_of, place, talk
from tests.sharded.test_local_choice import best_eight, close, ffn, ffn_arguments, head_arguments, rules


def moved(step: Any, *args: Any) -> int:
    return sum(c.wire_bytes for c in talk(step, *args))


@pytest.mark.parametrize("split", ["width of the model", "width of the model and neurons"])
def test_a_block_split_over_the_models_width_is_gathered_as_the_author_does(
    rng: np.random.Generator, split: str
) -> None:
    mesh = mesh_of("2x4")
    params, x = ffn_arguments(rng, mesh)
    neurons = "model" if "neurons" in split else None
    params |= {
        "up": place(mesh, params["up"], "data", neurons),
        "bias": place(mesh, params["bias"], neurons),
        "down": place(mesh, params["down"], neurons, "data"),
    }
    step = hire.transform(jax.jit(ffn), rules("ffn", density=0.1))
    close(step(params, x), jax.jit(ffn)(params, x), "float32")
    (decision,) = step.report().decisions
    assert decision.action == "dense"
    assert "split over the model's width (FSDP?), so every device has to gather them" in decision.reason
    assert moved(step, params, x) == moved(jax.jit(ffn), params, x) > 0


def test_a_head_split_over_rows_and_columns_is_gathered_as_the_author_does(rng: np.random.Generator) -> None:
    mesh = mesh_of("2x4")
    params, x = head_arguments(rng, mesh)
    params["embed"] = place(mesh, params["embed"], "model", "data")
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=64))
    assert np.array_equal(step(params, x)[1], jax.jit(best_eight)(params, x)[1])
    (decision,) = step.report().decisions
    assert decision.action == "dense"
    assert "split over rows and columns, so every device has to gather part of it" in decision.reason
    assert moved(step, params, x) == moved(jax.jit(best_eight), params, x)


@pytest.mark.parametrize("program", ["ffn", "head"])
def test_rows_split_over_the_axis_of_the_batch_stay_where_they_are(rng: np.random.Generator, program: str) -> None:
    """The few inputs travel to the rows, instead of the rows to the inputs."""
    mesh = mesh_of("2x4")
    if program == "ffn":
        params, x = ffn_arguments(rng, mesh)
        params |= {
            "up": place(mesh, params["up"], None, "data"),
            "bias": place(mesh, params["bias"], "data"),
            "down": place(mesh, params["down"], "data", None),
        }
        function, config = ffn, rules("ffn", density=1.0)
    else:
        params, x = head_arguments(rng, mesh)
        params["embed"] = place(mesh, params["embed"], "data", None)
        function, config = best_eight, rules("head", density=1.0)
    step = hire.transform(jax.jit(function), config)
    close(step(params, x), jax.jit(function)(params, x), "float32")
    (decision,) = step.report().rewritten
    assert decision.shards == 2
    assert moved(step, params, x) <= moved(jax.jit(function), params, x)
