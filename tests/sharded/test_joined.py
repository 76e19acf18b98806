"""Blocks whose products stand in shard_maps of their own, and heads whose parts are gathered in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import P, batch_axis, mesh_of, place, talk
from tests.sharded.test_local_choice import ffn_arguments, head_arguments, rules

Params = dict[str, jax.Array]


class Apart:
    """Linear layers as engines write them: a shard_map each."""

    def __init__(self, mesh: Any) -> None:
        self._mesh, self.batch = mesh, batch_axis(mesh)

    def columns(self, function: Callable[..., Any], weights: int = 1, results: int = 1) -> Any:
        """The function of x, whole rows, and of weights that are split over their columns."""
        out = (P(self.batch, "model"),) * results
        return jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(P(self.batch), *(P(None, "model"),) * weights),
            out_specs=out if results > 1 else out[0],
        )

    def rows(self, function: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
        """The function of h and of a weight, split over its rows; partial sums are added up."""
        return jax.shard_map(
            lambda h, w: jax.lax.psum(function(h, w), "model"),
            mesh=self._mesh,
            in_specs=(P(self.batch, "model"), P("model", None)),
            out_specs=P(self.batch),
        )


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w


def activation_between(apart: Apart, p: Params, x: jax.Array) -> jax.Array:
    h = apart.columns(product)(x, p["up"]).astype(jnp.float32) + p["bias"]
    return apart.rows(product)(jnp.where(h > 0, h, 0.0), p["down"])


def activation_in_the_first(apart: Apart, p: Params, x: jax.Array) -> jax.Array:
    return apart.rows(product)(apart.columns(lambda x, w: jax.nn.relu(x @ w))(x, p["up"]), p["down"])


def activation_in_the_second(apart: Apart, p: Params, x: jax.Array) -> jax.Array:
    h = apart.columns(product)(x, p["up"])
    return apart.rows(lambda h, w: jax.nn.relu(h) @ w)(jax.lax.with_sharding_constraint(h, _like(apart)), p["down"])


def handed_on_between(apart: Apart, p: Params, x: jax.Array) -> jax.Array:
    """What hands values on unchanged stands in front of the code between, and behind it."""
    h = jax.lax.with_sharding_constraint(apart.columns(product)(x, p["up"]), _like(apart))
    return apart.rows(product)(jax.lax.optimization_barrier(jax.nn.relu(h)), p["down"])


def gated(apart: Apart, p: Params, x: jax.Array) -> jax.Array:
    gate, up = (apart.columns(product)(x, p[name]) for name in ("gate", "up"))
    return apart.rows(product)(jax.nn.relu(gate) * up, p["down"])


def gate_and_up_together(apart: Apart, p: Params, x: jax.Array) -> jax.Array:
    gate, up = apart.columns(lambda x, g, u: (x @ g, x @ u), 2, 2)(x, p["gate"], p["up"])
    return apart.rows(product)(jax.nn.relu(gate) * up, p["down"])


def _like(apart: Apart) -> Any:
    return jax.sharding.NamedSharding(apart._mesh, P(apart.batch, "model"))


WRITTEN = (
    handed_on_between, activation_between, activation_in_the_first, activation_in_the_second, gated,
    gate_and_up_together,
)  # fmt: skip


def arguments(rng: np.random.Generator, mesh: Any) -> tuple[Params, jax.Array]:
    params, x = ffn_arguments(rng, mesh)
    return params | {"gate": place(mesh, rng.permuted(params["up"], axis=0), None, "model")}, x


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("mesh", ["4", "8", "2x4"])
@pytest.mark.parametrize("written", WRITTEN)
def test_a_block_in_several_shard_maps_is_one_site(
    rng: np.random.Generator, written: Callable[..., jax.Array], mesh: str
) -> None:
    devices = mesh_of(mesh)
    params, x = arguments(rng, devices)
    apart = Apart(devices)
    function = jax.jit(lambda p, x: jnp.sin(written(apart, p, jnp.tanh(x))))
    step = hire.transform(function, rules("ffn", density=1.0))
    assert np.array_equal(step(params, x), function(params, x))
    (site,) = step.report().sites
    assert (site.kind, site.devices) == ("ffn", devices.size)
    assert step.report().rewritten
    assert not step.report().misses
    sparse = hire.transform(function, rules("ffn", density=0.1))
    assert [c.kind for c in talk(sparse, params, x)] == [c.kind for c in talk(function, params, x)]
    assert not np.allclose(sparse(params, x), function(params, x))


def test_shard_maps_stay_apart_where_nothing_is_rewritten(rng: np.random.Generator) -> None:
    mesh = mesh_of("4")
    params, x = arguments(rng, mesh)
    apart = Apart(mesh)

    def program(p: Params, x: jax.Array) -> jax.Array:
        gate, up = (apart.columns(product)(x, p[name]) for name in ("gate", "up"))
        x = x + apart.rows(product)(jax.nn.silu(gate) * up, p["down"])
        h = apart.columns(lambda x, w: jax.nn.relu(x @ w))(x, p["up"])
        return apart.rows(jax.named_call(product, name="sparse"))(h, p["down"])

    function = jax.jit(program)
    rule = hire.Rule(kind="ffn", path="sparse", predictor=hire.Exact())
    step = hire.transform(function, hire.Config(rules=(rule,)))
    assert np.array_equal(step(params, x), function(params, x))
    written, rewritten = (function.lower(params, x).as_text(), step.lower(params, x).as_text())
    assert (written.count("sdy.manual_computation"), rewritten.count("sdy.manual_computation")) == (5, 4)
    silu, relu = step.report().sites
    assert (silu.activation, relu.activation) == ("silu", "relu")
    assert [d.site for d in step.report().rewritten] == [relu.id]
    assert "silu is not sparse" in step.report().decisions[0].reason


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4", "8"])
def test_a_head_whose_parts_are_gathered_is_certified_in_each(rng: np.random.Generator, mesh: str) -> None:
    devices = mesh_of(mesh)
    params, x = head_arguments(rng, devices)
    params["embed"] = params["embed"].at[1::2].set(params["embed"][::2])  # every row twice, some on two devices

    def local(params: Params, x: jax.Array) -> jax.Array:
        logits = jax.lax.all_gather(x @ params["embed"].T, "model", axis=1, tiled=True)
        return jnp.argmax(jnp.tanh(logits / 30) * 30, -1)

    specs = {"embed": P("model", None), "bias": P()}
    function = jax.jit(jax.shard_map(local, mesh=devices, in_specs=(specs, P()), out_specs=P(), check_vma=False))
    step = hire.transform(function, rules("head", candidates=32, certify="strict"))
    for _ in range(3):
        assert np.array_equal(step(params, x), function(params, x))
        x = jnp.roll(x, 1, axis=1) * 1.5
    assert step.report().rewritten
    talked = sum(c.result_bytes for c in talk(step, params, x))
    assert talked * 10 < sum(c.result_bytes for c in talk(function, params, x))
