"""An explicit choice of neurons between the products is seen, and counters are run to know which layers are read."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import hire_compiler as hire

D, WIDTH, LAYERS, K = 16, 64, 5, 8


def shape(*dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def kept(h: jax.Array, size: jax.Array) -> jax.Array:
    """Zero all but the K neurons whose ``size`` is largest."""
    return jnp.where(size >= jax.lax.top_k(size, K)[0][..., -1:], h, 0)


def above_cut(g: jax.Array) -> jax.Array:
    cut = jnp.mean(g, -1, keepdims=True) + 1.6449 * jnp.std(g, -1, keepdims=True)
    return jax.nn.gelu(jax.nn.relu(g - cut))


SELECTIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], str, str]] = {
    "after a relu": (lambda z: kept(jax.nn.relu(z), jax.nn.relu(z)), "relu", "top_k"),
    "before a gelu": (lambda z: jax.nn.gelu(kept(z, z)), "gelu_tanh", "top_k"),
    "by size": (lambda z: jax.nn.silu(kept(z, jnp.abs(z))), "silu", "top_k"),
    "by a sort": (lambda z: jnp.where(z >= jnp.sort(z, -1)[..., -K, None], jax.nn.relu(z), 0), "relu", "top_k"),
    "statistical": (above_cut, "gelu_tanh", "statistical_top_k"),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_is_named_and_left_as_it_is(name: str) -> None:
    select, activation, selection = SELECTIONS[name]
    arguments = (shape(2, D), shape(D, WIDTH), shape(D, WIDTH), shape(WIDTH, D))
    (site,) = hire.inspect(lambda x, g, u, d: (select(x @ g) * (x @ u)) @ d, *arguments).sites
    assert (site.activation, site.gated, site.selection) == (activation, True, selection)


def test_a_normalisation_between_the_products_is_no_selection() -> None:
    def block(x: jax.Array, u: jax.Array, d: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ u)
        return (h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6)) @ d

    report = hire.inspect(block, shape(2, D), shape(D, WIDTH), shape(WIDTH, D))
    assert not report.sites
    assert all("a normalisation?" in miss.reason for miss in report.misses)


def _block(h: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return h + jax.nn.relu(h @ up) @ down


LOOPS: dict[str, tuple[Callable[..., jax.Array], int]] = {
    "reversed": (lambda x, u, d: jax.lax.scan(lambda h, w: (_block(h, *w), None), x, (u, d), reverse=True)[0], LAYERS),
    "by take": (
        lambda x, u, d: jax.lax.fori_loop(0, LAYERS, lambda i, h: _block(h, jnp.take(u, i, 0), jnp.take(d, i, 0)), x),
        LAYERS,
    ),
    "over indices": (
        lambda x, u, d: jax.lax.scan(lambda h, i: (_block(h, u[i], d[i]), None), x, jnp.arange(LAYERS))[0],
        LAYERS,
    ),
    "over some layers": (lambda x, u, d: jax.lax.fori_loop(1, 4, lambda i, h: _block(h, u[i], d[i]), x), 3),
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_repeat_is_how_often_the_loop_over_layers_runs(name: str) -> None:
    function, repeat = LOOPS[name]
    (site,) = hire.inspect(function, shape(2, D), shape(LAYERS, D, WIDTH), shape(LAYERS, WIDTH, D)).sites
    assert site.repeat == repeat
