"""Every predictor is prepared for weights on meshes of every kind and size, with and without ``jax.set_mesh``."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import hire_compiler as hire
from tests.sharded.programs import P

D, WIDTH, N = 32, 128, 512
PREDICTORS = {
    "low rank": (hire.LowRank(rank=4), {}),
    "int8": (hire.Quantized(), {}),
    "int4": (hire.Quantized(bits=4, columns=16), {}),
    "cascade": (hire.Cascade(hire.LowRank(rank=4), hire.Quantized(), survivors=N), {}),
    "certified": (hire.Quantized(), {"certify": True}),
}


def config(name: str, sharded: str = "local") -> hire.Config:
    predictor, extra = PREDICTORS[name]
    head = {"candidates": N} if not extra else {"candidates": 64, **extra}
    block = {"density": 1.0, **extra, **({"group": 1} if extra else {})}
    blocks = () if name == "cascade" else (hire.Rule(kind="ffn", predictor=predictor, **block),)
    return hire.Config(rules=(hire.Rule(kind="head", predictor=predictor, **head), *blocks), sharded=sharded)  # type: ignore[arg-type]


def program(mesh: Any, explicit: bool) -> tuple[Any, list[jax.Array]]:
    rng = np.random.default_rng(3)

    def put(shape: tuple[int, ...], *spec: Any) -> jax.Array:
        return jax.device_put(jnp.asarray(rng.normal(size=shape), jnp.float32), NamedSharding(mesh, P(*spec)))

    arguments = [put((D, WIDTH), None, "model"), put((WIDTH, D), "model"), put((N, D), "model"), put((2, D), None)]

    def step(up: Any, down: Any, head: Any, x: Any) -> Any:
        place = {"out_sharding": NamedSharding(mesh, P(None, None))} if explicit else {}
        y = jnp.dot(jax.nn.relu(jnp.dot(x, up)), down, **place) + x
        wide = {"out_sharding": NamedSharding(mesh, P(None, "model"))} if explicit else {}
        return jax.lax.top_k(
            jax.sharding.reshard(jnp.dot(y, head.T, **wide), NamedSharding(mesh, P())) if explicit else y @ head.T, 2
        )[1]

    return jax.jit(step), arguments


@pytest.mark.diagonal(keep=4)
@pytest.mark.parametrize("set_mesh", [False, True])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(("devices", "name"), [*((1, name) for name in PREDICTORS), (2, "low rank"), (8, "int4")])
def test_it_is_prepared_and_right(devices: int, name: str, kind: Any, set_mesh: bool) -> None:
    mesh = jax.make_mesh((devices,), ("model",), axis_types=(kind,), devices=jax.devices()[:devices])
    step, arguments = program(mesh, kind == AxisType.Explicit)
    with jax.set_mesh(mesh) if set_mesh or (kind == AxisType.Explicit and devices > 1) else contextlib.nullcontext():
        rewritten = hire.transform(step, config(name))
        np.testing.assert_array_equal(rewritten(*arguments), step(*arguments))
        assert rewritten.report().rewritten


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_global_choice_is_prepared_on_any_mesh(kind: Any) -> None:
    mesh = jax.make_mesh((4,), ("model",), axis_types=(kind,), devices=jax.devices()[:4])
    step, arguments = program(mesh, kind == AxisType.Explicit)
    with jax.set_mesh(mesh):
        rewritten = hire.transform(step, config("low rank", "vanilla"))
        np.testing.assert_array_equal(rewritten(*arguments), step(*arguments))


@pytest.mark.parametrize("devices", [1, 4])
def test_the_body_of_a_shard_map_is_manual(devices: int) -> None:
    mesh = jax.make_mesh((devices,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rng = np.random.default_rng(5)
    w, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((N, D), (2, D)))
    w = jax.device_put(w, NamedSharding(mesh, P("model")))
    best = jax.jit(lambda w, x: jax.lax.top_k(x @ w.T, 2)[0])
    local = jax.shard_map(best, mesh=mesh, in_specs=(P("model"), P()), out_specs=P(None, "model"))
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=4), density=1.0)
    step = hire.transform(jax.jit(local), hire.Config(rules=(rule,)))
    want = jax.jit(local)(w, x)
    np.testing.assert_allclose(step(w, x), want, rtol=1e-4, atol=1e-4)
    inner = hire.transform(best, hire.Config(rules=(rule,)))
    with pytest.warns(hire.HireWarning, match="inside another jit"):
        got = jax.jit(jax.shard_map(inner, mesh=mesh, in_specs=(P("model"), P()), out_specs=P(None, "model")))(w, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert step.report().rewritten
    assert inner.report().rewritten


@pytest.mark.diagonal
@pytest.mark.filterwarnings("ignore:.*inside another jit")
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", ["low rank", "int8"])
def test_traced_weights_on_an_explicit_mesh_are_prepared_inside(name: str, devices: int) -> None:
    mesh = jax.make_mesh((devices,), ("model",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:devices])
    step, arguments = program(mesh, True)
    with jax.set_mesh(mesh):
        rewritten = hire.transform(step, config(name))
        np.testing.assert_array_equal(jax.jit(rewritten)(*arguments), step(*arguments))
        assert rewritten.report().rewritten
