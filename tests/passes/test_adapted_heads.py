"""Low-rank adapters beside a head: the head is a site, and the winner is that of both together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire

D, VOCABULARY, RANK, ADAPTERS, BATCH = 64, 2048, 8, 3, 2
Weights = dict[str, jax.Array]
PROVEN = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify="strict"),))


def one(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.argmax(x @ w["head"] + 2.0 * ((x @ w["a"]) @ w["b"]), -1)


def several(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    inner = jnp.einsum("bd,bdr->br", x, w["as"][ids])
    return jnp.argmax(x @ w["head"] + jnp.einsum("br,brv->bv", inner, w["bs"][ids]) * w["scales"][ids][:, None], -1)


@pytest.fixture
def weights() -> Weights:
    rng = np.random.default_rng(0)
    shapes = {"head": (D, VOCABULARY), "a": (D, RANK), "b": (RANK, VOCABULARY)}
    shapes |= {"as": (ADAPTERS, D, RANK), "bs": (ADAPTERS, RANK, VOCABULARY), "scales": (ADAPTERS, 1)}
    drawn = {name: jnp.asarray(rng.standard_normal(s, np.float32) / s[-2] ** 0.5) for name, s in shapes.items()}
    return drawn | {"scales": jnp.arange(1.0, 1 + ADAPTERS)}


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [one, several])
def test_the_winner_of_an_adapted_head_is_proven(adapted: Callable[..., Any], weights: Weights) -> None:
    step, dense = hire.transform(jax.jit(adapted), PROVEN), jax.jit(adapted)
    without = 0
    for seed in range(8):
        x = jnp.asarray(np.random.default_rng(seed).standard_normal((BATCH, D), np.float32))
        ids = jnp.asarray([seed % ADAPTERS, (seed + 1) % ADAPTERS])
        wanted = dense(weights, x, ids)
        np.testing.assert_array_equal(step(weights, x, ids), wanted)
        without += int((jnp.argmax(x @ weights["head"], -1) == wanted).sum())
    assert without < 8 * BATCH  # the adapter decides
    report = step.report()
    assert [(site.id, site.d, site.width) for site in report.sites] == [("head/0", D, VOCABULARY)]
    (proof,) = report.certificates
    assert proof.proven > 0.9 * proof.rows


def test_an_adapter_beside_a_head_is_no_head_of_its_own() -> None:
    shapes = {"head": (D, VOCABULARY), "a": (D, RANK), "b": (RANK, VOCABULARY)}
    w = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
    report = hire.inspect(one, w, jax.ShapeDtypeStruct((BATCH, D), jnp.float32), None)
    assert len(report.sites) == 1
    said = {miss.weight.split("'")[1]: miss.reason for miss in report.misses}
    assert said["b"] == f"a low-rank adapter (rank {RANK}): what it adds is computed whole"


def test_a_head_of_two_factors_is_a_head_still() -> None:
    w = {"a": jax.ShapeDtypeStruct((D, RANK), jnp.float32), "b": jax.ShapeDtypeStruct((RANK, VOCABULARY), jnp.float32)}
    report = hire.inspect(
        lambda w, x: jnp.argmax((x @ w["a"]) @ w["b"], -1), w, jax.ShapeDtypeStruct((1, D), "float32")
    )
    assert [(site.kind, site.d) for site in report.sites] == [("head", RANK)]
