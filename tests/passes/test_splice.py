"""Splicing: several sites in one module, the arguments that stay, and what the module looks like afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.passes.pipeline import rewrite_program
from hire_compiler.passes.splice.splice import Spliced
from tests.support.models import VOCABULARY, WIDTH, D, array, ffn, head

RULES = (
    hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.25),
    hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64),
)
CONFIG = hire.Config(rules=RULES)
FULL = hire.Config(
    rules=tuple(hire.Rule(kind=kind, predictor=hire.Quantized(), density=1.0) for kind in ("ffn", "head"))
)


def splice(function: Any, *args: Any, config: hire.Config = CONFIG) -> tuple[Spliced, list[str]]:
    """The spliced program and the names of the arguments that it kept."""
    captured = UserFunction(jax.jit(function))
    program = capture(captured, *captured.flatten(args, {}))
    spliced = rewrite_program(program, config, None, "cpu").spliced
    assert spliced is not None
    return spliced, [program.arguments[i].name for i in spliced.kept]


def pair(rng: np.random.Generator, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array]:
    return array(rng, D, WIDTH, dtype=dtype) / 4, array(rng, WIDTH, D, dtype=dtype) / 8


# --------------------------------------------------------------------------- arguments


def test_a_site_that_reads_another_reads_its_replacement(rng: np.random.Generator) -> None:
    """Nothing stands between the two blocks, so the second has captured the very value that the first replaces."""
    (up, down), (up2, down2) = pair(rng), pair(rng)
    twice = lambda x, up, down, up2, down2: ffn(ffn(x, up, down), up2, down2)  # noqa: E731
    _, kept = splice(twice, array(rng, 1, D), up, down, up2, down2)
    assert kept == ["x", "down", "down2"]  # nothing of the first block's dense products is left


def test_a_weight_that_nothing_reads_any_more_is_no_argument(rng: np.random.Generator) -> None:
    up, down = pair(rng)
    spliced, kept = splice(ffn, array(rng, 2, D), up, down)
    assert kept == ["x", "down"]
    assert {entry.name for entry in spliced.prepared} >= {"q", "scale", "rows0"}


def test_a_weight_that_something_else_reads_too_stays_an_argument(rng: np.random.Generator) -> None:
    up, down = pair(rng)
    _, kept = splice(lambda x, up, down: (ffn(x, up, down), up.sum()), array(rng, 2, D), up, down)
    assert kept == ["x", "up", "down"]


def test_a_weight_stored_by_rows_is_read_from_its_own_argument(rng: np.random.Generator) -> None:
    spliced, kept = splice(head, array(rng, 2, D), array(rng, VOCABULARY, D))
    assert kept == ["x", "w"]
    assert {entry.name for entry in spliced.prepared} == {"q", "scale"}


def test_an_argument_that_was_never_read_is_dropped_without_harm(rng: np.random.Generator) -> None:
    step = hire.transform(lambda x, unused, w: head(x, w), CONFIG)
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    np.testing.assert_array_equal(step(x, {"a": array(rng, 3)}, w), head(x, w))
    assert step.report().rewritten


def test_an_argument_that_is_returned_as_it_came_is_kept(rng: np.random.Generator) -> None:
    step = hire.transform(lambda x, w, cache: (head(x, w), cache, w), CONFIG)
    x, w, cache = array(rng, 2, D), array(rng, VOCABULARY, D), array(rng, 4)
    best, same, weight = step(x, w, cache)
    np.testing.assert_array_equal(best, head(x, w))
    np.testing.assert_array_equal(same, cache)
    np.testing.assert_array_equal(weight, w)


# --------------------------------------------------------------------------- several sites


def check_full_width(function: Any, *args: Any, sites: int) -> None:
    step = hire.transform(jax.jit(function), FULL)
    got, wanted = step(*args), jax.jit(function)(*args)
    assert len(step.report().rewritten) == sites
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        one, other = (np.asarray(a.astype(jnp.float32)) for a in (one, other))
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2 * np.abs(other).max())


def test_blocks_of_one_shape_may_see_different_batches(rng: np.random.Generator) -> None:
    """Prefill and decode in one program: the same weights' shapes, not the same function."""
    (u, v), (a, b) = pair(rng), pair(rng)
    program = lambda x, y, u, v, a, b: (ffn(x, u, v), ffn(y, a, b))  # noqa: E731
    check_full_width(program, array(rng, 2, D), array(rng, 5, D), u, v, a, b, sites=2)
    check_full_width(program, array(rng, 2, D), array(rng, 2, 1, D), u, v, a, b, sites=2)


def test_one_block_may_see_different_batches(rng: np.random.Generator) -> None:
    u, v = pair(rng)
    program = lambda x, y, u, v: (ffn(x, u, v), ffn(y, u, v))  # noqa: E731
    check_full_width(program, array(rng, 2, D), array(rng, 5, D), u, v, sites=2)
    spliced, _ = splice(program, array(rng, 2, D), array(rng, 5, D), u, v)
    assert len(spliced.preparations) == 1


def test_blocks_of_one_shape_may_have_different_types(rng: np.random.Generator) -> None:
    (u, v), (a, b) = pair(rng), pair(rng, jnp.bfloat16)
    program = lambda x, u, v, a, b: (ffn(x, u, v), ffn(x.astype(jnp.bfloat16), a, b))  # noqa: E731
    check_full_width(program, array(rng, 2, D), u, v, a, b, sites=2)


@pytest.mark.slow
def test_blocks_of_one_shape_may_have_results_of_different_types(rng: np.random.Generator) -> None:
    (u, v), (a, b) = pair(rng, jnp.bfloat16), pair(rng, jnp.bfloat16)

    def program(x: jax.Array, u: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array) -> Any:
        return ffn(x, u, v), jnp.dot(jax.nn.relu(x @ a), b, preferred_element_type=jnp.float32)

    check_full_width(program, array(rng, 2, D, dtype=jnp.bfloat16), u, v, a, b, sites=2)


@pytest.mark.slow
def test_the_precision_that_one_block_asks_for_is_its_own(rng: np.random.Generator) -> None:
    (u, v), (a, b) = pair(rng), pair(rng)

    def program(x: jax.Array, u: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array) -> Any:
        return ffn(x, u, v), jnp.dot(jax.nn.relu(jnp.dot(x, a, precision="highest")), b, precision="highest")

    args = (array(rng, 2, D), u, v, a, b)
    check_full_width(program, *args, sites=2)
    text = hire.transform(program, FULL).lower(*args).as_text()
    plain = hire.transform(ffn, FULL).lower(*args[:3]).as_text()
    assert "HIGHEST" in text
    assert "HIGHEST" not in plain


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
def test_blocks_of_one_shape_may_have_different_activations(gated: bool, rng: np.random.Generator) -> None:
    (u, v), (a, b) = pair(rng), pair(rng)

    def one(act: Any, x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return act(x @ u) @ v

    def two(act: Any, x: jax.Array, g: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return (act(x @ g) * (x @ u)) @ v

    x = array(rng, 2, D)
    if gated:
        program = lambda x, u, v, a, b: (two(jax.nn.silu, x, u, a, v), two(jax.nn.relu, x, a, u, b))  # noqa: E731
    else:
        program = lambda x, u, v, a, b: (one(jax.nn.silu, x, u, v), one(jax.nn.relu, x, a, b))  # noqa: E731
    check_full_width(program, x, u, v, a, b, sites=2)


@pytest.mark.slow
def test_equal_layers_share_one_lowered_function(rng: np.random.Generator) -> None:
    layers = [pair(rng) for _ in range(3)]

    def program(x: jax.Array, layers: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
        for up, down in layers:
            x = x + ffn(x, up, down)
        return x

    text = hire.transform(program, CONFIG).lower(array(rng, 2, D), layers).as_text()
    assert len(re.findall(r"call @hire_site", text)) == 3
    assert len(re.findall(r"func private @hire_site", text)) == 1
    check_full_width(program, array(rng, 2, D), layers, sites=3)


def test_weights_shared_by_two_sites_are_prepared_once(rng: np.random.Generator) -> None:
    u, v = pair(rng)
    spliced, _ = splice(lambda x, u, v: ffn(ffn(x, u, v), u, v), array(rng, 2, D), u, v)
    assert len(spliced.preparations) == 1


@pytest.mark.slow
def test_a_site_whose_result_is_read_twice_and_returned(rng: np.random.Generator) -> None:
    u, v = pair(rng)

    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> Any:
        y = ffn(x, u, v)
        return y, y.sum(), ffn(y, u, v)

    check_full_width(program, array(rng, 2, D), u, v, sites=2)


def test_an_empty_batch_is_served(rng: np.random.Generator) -> None:
    up, down = pair(rng)
    assert hire.transform(ffn, CONFIG)(array(rng, 0, D), up, down).shape == (0, D)
    assert hire.transform(head, CONFIG)(array(rng, 0, D), array(rng, VOCABULARY, D)).shape == (0,)


@pytest.mark.slow
def test_the_key_of_a_preparation_is_the_same_in_every_process() -> None:
    """Python's own hash is not: keys are saved with the weights they belong to."""
    program = """
import sys; sys.path.insert(0, "tests/passes")
import jax, jax.numpy as jnp, hire_compiler as hire
from test_splice import splice, FULL
step = lambda x, w, b, v: jax.nn.relu(x @ w + b) @ v
shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 16), (16, 512), (512,), (512, 16))]
print(sorted(splice(step, *shapes)[0].preparations))
"""
    keys = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        keys.add(done.stdout)
    assert len(keys) == 1
    assert "@" in keys.pop()
