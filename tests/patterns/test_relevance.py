"""Neurons are ranked by the size of what the author's own code makes of their predicted gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.graph.graph import read_graph
from hire_compiler.passes.detect.detect import detect
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.ffn.relevance import Relevance
from tests.support.drawn import drawn

D, WIDTH = 16, 64
Z = np.asarray([-7.0, -3.5, -1.3, -0.2, 0.1, 0.9, 2.5, 6.0], np.float32)


def relevance(function: Callable[..., Any], **more: Any) -> Relevance:
    """The relevance of the one block of a function of weights and x."""
    return block(function, **more).relevance


def block(function: Callable[..., Any], **more: Any) -> FfnMatch:
    w = {name: jnp.zeros((D, WIDTH)) for name in ("gate", "up")} | {"down": jnp.zeros((WIDTH, D))} | more
    wrapped = UserFunction(function)
    leaves, tree = wrapped.flatten((w, jnp.zeros((2, D))), {})
    program = capture(wrapped, leaves, tree)
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        (match,) = detect(read_graph(module), program.arguments).matches
    assert isinstance(match, FfnMatch)
    return match


def plain(act: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda w, x: act(x @ w["up"]) @ w["down"]


def gated(act: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda w, x: (act(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


def clamped(g: Any) -> Any:
    return jnp.clip(g, -5, 5) * jax.nn.sigmoid(1.3 * jnp.clip(g, -5, 5))


SIZES: dict[str, Callable[[Any], Any]] = {
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "tanh": jnp.tanh,
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu with much leak": lambda z: jnp.where(z > 0, z, 0.4 * z),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "mish": jax.nn.mish,
    "custom": lambda z: z * jax.nn.sigmoid(0.3 * z),
    "clamped": clamped,
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("form", [plain, gated])
def test_a_neuron_matters_by_the_size_of_what_it_passes_on(name: str, form: Callable[..., Any]) -> None:
    act = SIZES[name]
    scores = relevance(form(act))(jnp.asarray(Z)[None], [])[0]
    np.testing.assert_allclose(scores, np.abs(act(jnp.asarray(Z))), rtol=1e-5, atol=1e-6)


@pytest.mark.diagonal
@pytest.mark.parametrize(
    "act", [jax.nn.relu, jax.nn.relu6, lambda z: jax.nn.relu(z) ** 2, lambda z: (z + jnp.abs(z)) / 2]
)
@pytest.mark.parametrize("form", [plain, gated])
def test_where_negative_gates_give_zero_the_less_negative_ranks_first(act: Any, form: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(relevance(form(act))(Z, []), Z)


def test_two_linear_products_rank_by_the_size_of_one() -> None:
    np.testing.assert_allclose(relevance(gated(lambda z: z))(jnp.asarray(Z), []), np.abs(Z))


def test_a_bias_of_the_other_product_does_not_hide_a_neuron() -> None:
    def function(w: Any, x: jax.Array) -> jax.Array:
        return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"] + w["bias"])) @ w["down"]

    found = relevance(function, bias=jnp.zeros(WIDTH))
    assert not found.reads
    np.testing.assert_allclose(found(jnp.asarray(Z), []), np.abs(jax.nn.silu(Z)), rtol=1e-5, atol=1e-6)


def test_a_bias_of_the_gate_is_counted_once() -> None:
    def function(w: Any, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x @ w["up"] + w["bias"]) @ w["down"]

    found = relevance(function, bias=jnp.zeros(WIDTH))
    assert not found.reads
    np.testing.assert_allclose(found(jnp.asarray(Z), []), np.abs(jax.nn.silu(Z)), rtol=1e-5, atol=1e-6)


def test_a_slope_for_each_neuron_ranks_them() -> None:
    def function(w: Any, x: jax.Array) -> jax.Array:
        z = x @ w["up"]
        return jnp.where(z > 0, z, w["slope"] * z) @ w["down"]

    found = relevance(function, slope=jnp.zeros(WIDTH))
    slope = jnp.asarray([0.0, 0.5, -2.0, 0.1, 9.0, 9.0, 9.0, 9.0], jnp.bfloat16)
    assert found.reads == (0,)
    wanted = np.where(Z > 0, Z, np.abs(np.asarray(slope, np.float32) * Z))
    np.testing.assert_allclose(found(jnp.asarray(Z), [slope]), wanted, rtol=1e-6)


def test_a_choice_by_rank_is_made_again_and_does_not_rank() -> None:
    def function(w: Any, x: jax.Array) -> jax.Array:
        h = jax.nn.silu(x @ w["up"])
        return jnp.where(h >= jax.lax.top_k(h, 8)[0][:, -1:], h, 0) @ w["down"]

    np.testing.assert_allclose(relevance(function)(jnp.asarray(Z), []), np.abs(jax.nn.silu(Z)), rtol=1e-5, atol=1e-6)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", ["leaky_relu with much leak", "elu", "mish", "custom", "clamped"])
@pytest.mark.parametrize("layers", [None, 2])
def test_the_best_neurons_are_computed(name: str, layers: int | None, rng: np.random.Generator) -> None:
    """Of ranks as good as an int8 copy gives, the strongest neurons leave the smallest error."""
    act, kept = SIZES[name], WIDTH // 4

    def one(w: Any, x: jax.Array) -> jax.Array:
        return act(x @ w["up"] + w["bias"]) @ w["down"]

    def function(w: Any, x: jax.Array) -> jax.Array:
        return one(w, x) if layers is None else jax.lax.scan(lambda h, own: (h + one(own, h), None), x, w)[0]

    stack = () if layers is None else (layers,)
    shapes = {"up": (D, WIDTH), "bias": (WIDTH,), "down": (WIDTH, D)}
    w = {k: drawn(rng.normal(size=(*stack, *shape)) * 0.5, jnp.float32) for k, shape in shapes.items()}
    x = drawn(rng.normal(size=(1, D)), jnp.float32)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(), candidates=kept, group=1)
    step = hire.transform(jax.jit(function), hire.Config(rules=(rule,)))
    wanted = x
    for own in [w] if layers is None else [{k: v[i] for k, v in w.items()} for i in range(layers)]:
        h = act(wanted @ own["up"] + own["bias"])
        size = jnp.sort(jnp.abs(h))[0, -kept]
        y = jnp.where(jnp.abs(h) >= size, h, 0) @ own["down"]
        wanted = y if layers is None else wanted + y
    np.testing.assert_allclose(step(w, x), wanted, rtol=0.05, atol=0.05)
