"""Proofs are counted wherever a site stands: in a loop over layers or tokens, in a branch, in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.offline.verify import verify
from tests.support.drawn import drawn

V, D, WIDTH, LAYERS, TOKENS, BATCH = 4096, 64, 512, 3, 5, 2
CONFIG = hire.Config(
    rules=(
        hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict"),
        hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.25),
    )
)


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, Any]:
    normal = lambda *s: drawn(rng.standard_normal(s) / np.sqrt(s[-2]), jnp.float32)  # noqa: E731
    bias = jnp.asarray([[-4.0], [-4.0], [1.0]] * np.ones((LAYERS, WIDTH)), jnp.float32)  # the last layer is dense
    return {"up": normal(LAYERS, D, WIDTH), "down": normal(LAYERS, WIDTH, D), "bias": bias, "head": normal(V, D) * 8}


def layers(w: dict[str, Any], x: Any) -> Any:
    def layer(x: Any, one: Any) -> Any:
        up, down, bias = one
        return x + jax.nn.relu(x @ up + bias) @ down / 8, None

    return jax.lax.scan(layer, x, (w["up"], w["down"], w["bias"]))[0]


def token(w: dict[str, Any], x: Any) -> Any:
    return jnp.argmax(x @ w["head"].T, -1)


def decode(w: dict[str, Any], x: Any) -> Any:
    def one(x: Any, _: Any) -> Any:
        y = layers(w, x)
        t = token(w, y)
        return w["head"][t] / 8, t

    return jax.lax.scan(one, x, None, length=TOKENS)[1]


def now_and_then(w: dict[str, Any], x: Any) -> Any:
    """Only every other turn of the loop picks a token, in one of three branches."""

    def one(state: Any) -> Any:
        i, x, t = state
        t = jax.lax.switch(i % 3, [lambda x: token(w, x), lambda x: t, lambda x: t + 1], x)
        return i + 1, x + 0.1, t

    start = (0, x, jnp.zeros((BATCH,), jnp.int32))
    return jax.lax.while_loop(lambda state: state[0] < 7, one, start)[2]


def run(step: Any, w: Any, rng: np.random.Generator, calls: int) -> dict[str, tuple[int, int]]:
    """By site ``(rows, proven)``, after so many calls that gave the tokens of the original."""
    made, dense = hire.transform(step, CONFIG), jax.jit(step)
    for _ in range(calls):
        x = drawn(rng.standard_normal((BATCH, D)), jnp.float32)
        np.testing.assert_array_equal(made(w, x), dense(w, x))
    return {c.site: (c.rows, c.proven) for c in made.report().certificates}


def test_a_loop_over_layers_inside_one_over_tokens(weights: dict[str, Any], rng: np.random.Generator) -> None:
    counts = run(decode, weights, rng, calls=2)
    assert counts["head/0"][0] == 2 * TOKENS * BATCH
    rows, held = counts["ffn/0"]
    assert rows == 2 * TOKENS * LAYERS * BATCH
    assert held == rows * 2 // 3  # the budget of the last layer never holds


@pytest.mark.slow
def test_a_branch_that_is_not_taken_counts_nothing(weights: dict[str, Any], rng: np.random.Generator) -> None:
    rows, proven = run(now_and_then, weights, rng, calls=3)["head/0"]
    assert rows == 3 * 3 * BATCH  # i = 0, 3, 6
    assert 0 < proven <= rows


@pytest.mark.slow
def test_the_slack_of_a_loop_is_its_largest(weights: dict[str, Any], rng: np.random.Generator) -> None:
    made = hire.transform(decode, CONFIG)
    made(weights, drawn(rng.standard_normal((BATCH, D)), jnp.float32))
    (head,) = (c for c in made.report().certificates if c.site == "head/0")
    one = hire.transform(token, CONFIG)
    one(weights, weights["head"][:BATCH] / 8)
    (single,) = one.report().certificates
    assert 0 < head.slack < 100 * single.slack  # no sum over the turns of the loop would be so near


@pytest.mark.slow
def test_an_artifact_counts_them_too(weights: dict[str, Any], rng: np.random.Generator, tmp_path: Path) -> None:
    x = rng.standard_normal((BATCH, D)).astype(np.float32)
    types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (weights, x))
    exported = jax.export.export(jax.jit(decode))(*types)
    named = {name: np.asarray(array) for name, array in weights.items()}
    artifact = hire.rewrite(exported, CONFIG, weights=named, platforms=("cpu",))
    found = verify(artifact, exported, weights=named, trials=2)
    assert found.certificates["head/0"][0] == 2 * TOKENS * BATCH
    assert found.certificates["ffn/0"][0] == 2 * TOKENS * LAYERS * BATCH
