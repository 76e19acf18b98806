"""Which neighbouring shard_maps are one, on a mesh that nobody has to have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import hire_compiler as hire

D, WIDTH = 64, 256
Function = Callable[..., jax.Array]


def shape(*dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, jnp.float32)


X, UP, DOWN, BIAS = shape(2, D), shape(D, WIDTH), shape(WIDTH, D), shape(WIDTH)


def mapped(function: Function, given: Any, made: Any) -> Function:
    mesh = jax.sharding.AbstractMesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=made, check_vma=False)


def columns(x: jax.Array, w: jax.Array) -> jax.Array:
    split = P(None, "model")
    return mapped(lambda x, w: x @ w, (P(), split), split)(x, w)


def gathered(x: jax.Array, w: jax.Array) -> jax.Array:
    local = lambda x, w: jax.lax.all_gather(x @ w, "model", axis=1, tiled=True)  # noqa: E731
    return mapped(local, (P(), P(None, "model")), P())(x, w)


def rows(h: jax.Array, w: jax.Array) -> jax.Array:
    given = P(None, "model"), P("model", None)
    return mapped(lambda h, w: jax.lax.psum(h @ w, "model"), given, P())(h, w)


def found(function: Function, *more: Any) -> list[str]:
    report = hire.inspect(function, X, UP, DOWN, *more)
    assert len(report.misses) in (0, 2)
    return [site.kind for site in report.sites]


@pytest.mark.parametrize(
    "between",
    [
        lambda h, b: jax.nn.relu(h),
        lambda h, b: jax.nn.gelu(h + b, approximate=True),
        lambda h, b: jax.nn.relu((h.astype(jnp.bfloat16) + b.astype(jnp.bfloat16)[None]).astype(jnp.float32)),
        lambda h, b: jnp.where(h > 0, h, 0.01 * h),
        lambda h, b: jnp.clip(h, 0, 6),
    ],
)
def test_elementwise_code_between_two_shard_maps_makes_them_one(between: Function) -> None:
    assert found(lambda x, u, d, b: rows(between(columns(x, u), b), d), BIAS) == ["ffn"]


def test_shard_maps_in_a_loop_are_read_as_one() -> None:
    def program(x: jax.Array, u: jax.Array, d: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (x + rows(jax.nn.relu(columns(x, w[0])), w[1]), None), x, (u, d))[0]

    (site,) = hire.inspect(program, X, shape(3, D, WIDTH), shape(3, WIDTH, D)).sites
    assert (site.kind, site.repeat) == ("ffn", 3)


@pytest.mark.parametrize(
    "program",
    [
        lambda x, u, d: rows(jax.nn.relu(gathered(x, u)), d),  # split otherwise
        lambda x, u, d: rows(jax.nn.softmax(columns(x, u)), d),  # a number of the whole row
        lambda x, u, d: rows(jnp.flip(columns(x, u), 1), d),  # other neurons on the device
        lambda x, u, d: rows(h := jax.nn.relu(columns(x, u)), d) + jnp.sum(h),  # read elsewhere
    ],
)
def test_other_code_keeps_them_apart(program: Function) -> None:
    assert found(program) == []
