"""A concatenate that slices undo is a layout, of results and of kernels: blocks are found, and equal when rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

D, FF = 16, 64
Weights = dict[str, jax.Array]
Spelling = Callable[[Weights, jax.Array], tuple[jax.Array, jax.Array]]  # gate and up


def two_results(w: Weights, x: jax.Array) -> Any:
    return jnp.split(jnp.concatenate([x @ w["gate"], x @ w["up"]], -1), 2, -1)


def two_results_stacked(w: Weights, x: jax.Array) -> Any:
    z = jnp.stack([x @ w["gate"], x @ w["up"]], 1)
    return z[:, 0], z[:, 1]


def two_results_interleaved(w: Weights, x: jax.Array) -> Any:
    z = jnp.stack([x @ w["gate"], x @ w["up"]], -1).reshape(len(x), 2 * FF)
    return z[:, ::2], z[:, 1::2]


def with_a_bias_on_both(w: Weights, x: jax.Array) -> Any:
    z = jnp.concatenate([x @ w["gate"], x @ w["up"]], -1) + w["bias"]
    return z[:, :FF], z[:, FF:]


def with_queries_beside(w: Weights, x: jax.Array) -> Any:
    z = jnp.concatenate([x @ w["q"], x @ w["gate"], x @ w["up"]], -1)
    return z[:, D : D + FF], z[:, D + FF :]


def two_kernels(w: Weights, x: jax.Array) -> Any:
    return jnp.split(x @ jnp.concatenate([w["gate"], w["up"]], -1), 2, -1)


def two_kernels_by_rows(w: Weights, x: jax.Array) -> Any:
    return jnp.split(x @ jnp.concatenate([w["gate"].T, w["up"].T]).T, 2, -1)


def two_kernels_stacked(w: Weights, x: jax.Array) -> Any:
    z = jnp.einsum("bd,dgf->bgf", x, jnp.stack([w["gate"], w["up"]], 1))
    return z[:, 0], z[:, 1]


def two_kernels_as_columns(w: Weights, x: jax.Array) -> Any:
    z = jnp.concatenate([w["gate"].T, w["up"].T]) @ x.T
    return z[:FF].T, z[FF:].T


def two_kernels_converted(w: Weights, x: jax.Array) -> Any:
    kernels = jnp.concatenate([w["gate"].astype(jnp.bfloat16), w["up"].astype(jnp.bfloat16)], -1)
    return jnp.split(x @ kernels.astype(jnp.float32), 2, -1)


def merged(shards: int) -> Spelling:
    """One kernel, interleaved by shards; what it makes is laid out anew and cut apart again (tpu-inference)."""

    def both(w: Weights, x: jax.Array) -> Any:
        kernel = jnp.concatenate([w["gate"].reshape(D, shards, -1), w["up"].reshape(D, shards, -1)], -1)
        z = (x @ w.get("merged", kernel.reshape(D, 2 * FF))).reshape(len(x), shards, 2, FF // shards)
        z = jnp.concatenate([z[:, :, i].reshape(len(x), FF) for i in (0, 1)], -1)
        return jnp.split(z, 2, -1)

    return both


SPELLINGS: dict[str, Spelling] = {
    "two results": two_results,
    "two results, stacked": two_results_stacked,
    "two results, interleaved": two_results_interleaved,
    "a bias on both": with_a_bias_on_both,
    "queries beside": with_queries_beside,
    "two kernels": two_kernels,
    "two kernels by rows": two_kernels_by_rows,
    "two kernels, stacked": two_kernels_stacked,
    "two kernels, as columns": two_kernels_as_columns,
    "two kernels, converted": two_kernels_converted,
    "merged kernel": merged(1),
    "merged kernel in four shards": merged(4),
}


def weights(name: str, rng: np.random.Generator, layers: tuple[int, ...] = ()) -> Weights:
    def normal(*shape: int) -> jax.Array:
        return drawn(rng.normal(size=(*layers, *shape)) / np.sqrt(shape[0]), jnp.float32)

    w = {"gate": normal(D, FF), "up": normal(D, FF), "down": normal(FF, D)}
    w |= {"q": normal(D, D)} if "queries" in name else {}
    w |= {"bias": normal(2 * FF)} if "bias" in name else {}
    return w | ({"merged": normal(D, 2 * FF)} if "merged" in name else {})


def block(spelling: Spelling, act: Any = jax.nn.relu) -> Callable[[Weights, jax.Array], jax.Array]:
    def function(w: Weights, x: jax.Array) -> jax.Array:
        gate, up = spelling(w, jnp.sin(x))
        return (act(gate - 1) * up) @ w["down"]

    return function


def rewritten(function: Any, config: hire.Config, *arguments: Any) -> tuple[Any, hire.Report]:
    step = hire.transform(jax.jit(function), config)
    return step(*arguments), step.report()


def rule(predictor: Any, density: float) -> hire.Config:
    return hire.Config(rules=(hire.Rule(kind="ffn", predictor=predictor, density=density, group=1),))


def inspected(function: Any, shapes: dict[str, tuple[int, ...]]) -> hire.Report:
    return hire.inspect(
        function, {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}, jnp.ones((1, D))
    )


@pytest.mark.diagonal(keep=4)
@pytest.mark.parametrize("name", SPELLINGS)
def test_full_width_is_the_dense_block(name: str, rng: np.random.Generator) -> None:
    function, w = block(SPELLINGS[name], jax.nn.silu), weights(name, rng)
    x = drawn(rng.normal(size=(2, D)), jnp.float32)
    got, report = rewritten(function, rule(hire.Quantized(), 1.0), w, x)
    assert len(report.rewritten) == 1, report
    assert report.sites[0].gated
    np.testing.assert_allclose(got, jax.jit(function)(w, x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLINGS)
def test_zeros_are_skipped_exactly(name: str, rng: np.random.Generator) -> None:
    function, w = block(SPELLINGS[name]), weights(name, rng)
    x = drawn(rng.normal(size=(1, D)), jnp.float32)
    got, report = rewritten(function, rule(hire.Exact(), 0.5), w, x)
    assert len(report.rewritten) == 1, report
    assert report.certificates[0].proven == 1  # fewer than half of the neurons are active
    np.testing.assert_allclose(got, jax.jit(function)(w, x), rtol=1e-5, atol=1e-6)


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("name", SPELLINGS)
def test_the_predicted_half_holds_all_active_neurons(name: str, rng: np.random.Generator) -> None:
    """Half of the width, chosen by an int8 copy of the gate, holds every active neuron of this ReLU."""
    w = weights(name, rng)
    x = drawn(rng.normal(size=(1, D)), jnp.float32)
    function = block(SPELLINGS[name])
    got, _ = rewritten(function, rule(hire.Quantized(bits=8), 0.5), w, x)
    np.testing.assert_allclose(got, jax.jit(function)(w, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["two results", "two kernels", "merged kernel in four shards"])
def test_layers_of_a_scan(name: str, rng: np.random.Generator) -> None:
    inner, w = block(SPELLINGS[name], jax.nn.silu), weights(name, rng, (3,))
    x = drawn(rng.normal(size=(2, D)), jnp.float32)

    def function(w: Weights, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, layer: (h + inner(layer, h), None), x, w)[0]

    got, report = rewritten(function, rule(hire.Quantized(), 1.0), w, x)
    assert [site.repeat for site in report.sites] == [3]
    assert report.rewritten
    np.testing.assert_allclose(got, jax.jit(function)(w, x), rtol=1e-5, atol=1e-6)


def test_an_activation_may_stand_before_the_concatenate(rng: np.random.Generator) -> None:
    def function(w: Weights, x: jax.Array) -> jax.Array:
        z = jnp.concatenate([jax.nn.silu(x @ w["gate"]), x @ w["up"]], -1)
        return (z[:, :FF] * z[:, FF:]) @ w["down"]

    w, x = weights("", rng), drawn(rng.normal(size=(2, D)), jnp.float32)
    got, report = rewritten(function, rule(hire.Quantized(), 1.0), w, x)
    assert [site.activation for site in report.sites] == ["silu"]
    np.testing.assert_allclose(got, jax.jit(function)(w, x), rtol=1e-5, atol=1e-6)


def test_parts_that_no_slice_takes_apart_are_no_block() -> None:
    def function(w: Weights, x: jax.Array) -> jax.Array:
        z = jnp.concatenate([x @ w["gate"], x @ w["up"]], -1)
        return jax.nn.relu(z) @ w["down"]

    shapes = {"gate": (D, FF), "up": (D, FF), "down": (2 * FF, D)}
    report = hire.inspect(
        function, {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}, jnp.ones((1, D))
    )
    assert not report.sites
    assert {miss.weight for miss in report.misses} == {"w['gate']", "w['up']", "w['down']"}
    assert "concatenate stands between the matrix products" in {miss.reason for miss in report.misses}


def test_a_slice_across_both_parts_is_no_block() -> None:
    def function(w: Weights, x: jax.Array) -> jax.Array:
        z = jnp.concatenate([x @ w["gate"], x @ w["up"]], -1)
        return (jax.nn.relu(z[:, : FF - 8]) * z[:, FF - 8 : -16]) @ w["down"]

    shapes = {"gate": (D, FF), "up": (D, FF), "down": (FF - 8, D)}
    report = hire.inspect(
        function, {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}, jnp.ones((1, D))
    )
    assert not report.sites
