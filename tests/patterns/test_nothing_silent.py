"""Nothing is silent: every parameter of 64 KiB and more that a matrix product reads is part of a site or of a miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax
from jax.sharding import PartitionSpec as P

import hire_compiler as hire
from tests.support.programs import ffns, heads
from tests.support.silence import silent, weights_of_products

D, WIDTH, EXPERTS = 64, 2048, 8
Function = Callable[..., Any]


def shape(*dims: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


def two(up: Any, down: Any, **more: Any) -> dict[str, Any]:
    return {"up": up, "down": down, **more}


# --------------------------------------------------------------------------- how a product is written


def plain(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def scaled_before(p: Any, x: jax.Array) -> jax.Array:
    up, down = (p[name].astype(jnp.float32) * p[f"{name}_scale"] for name in ("up", "down"))
    return jax.nn.relu(x @ up) @ down


def scaled_after(p: Any, x: jax.Array) -> jax.Array:
    h = jax.nn.relu((x @ p["up"].astype(jnp.float32)) * p["up_scale"])
    return (h @ p["down"].astype(jnp.float32)) * p["down_scale"]


def w8a8(p: Any, x: jax.Array) -> jax.Array:
    def product(x: jax.Array, name: str) -> jax.Array:
        scale = jnp.max(jnp.abs(x), -1, keepdims=True) / 127
        whole = jnp.round(x / scale).astype(jnp.int8)
        sums = lax.dot_general(whole, p[name], (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
        return sums * scale * p[f"{name}_scale"]

    return product(jax.nn.relu(product(x, "up")), "down")


def in_blocks(p: Any, x: jax.Array) -> jax.Array:
    def whole(name: str) -> jax.Array:
        q, scale = p[name], p[f"{name}_scale"]
        return (q.reshape(len(scale), -1, q.shape[1]) * scale[:, None]).reshape(q.shape)

    return jax.nn.relu(x @ whole("up")) @ whole("down")


def packed(p: Any, x: jax.Array) -> jax.Array:
    def unpack(q: jax.Array) -> jax.Array:
        parts = (q[:, None] >> (4 * jnp.arange(8, dtype=jnp.int32))[:, None]) & 15
        return parts.reshape(-1, q.shape[1]).astype(jnp.float32) - 8

    return jax.nn.relu(x @ unpack(p["up"])) @ unpack(p["down"])


def adapted(p: Any, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ p["up"] + (x @ p["a"]) @ p["b"])
    return h @ p["down"]


def convolved(p: Any, x: jax.Array) -> jax.Array:
    spread = jnp.concatenate([x] * 3)[None]
    return lax.conv_general_dilated(spread, p["kernel"], (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC"))[0, :2]


def experts_dense(p: Any, x: jax.Array) -> jax.Array:
    gates = _gates(p, x)
    h = jax.nn.relu(jnp.einsum("bd,edf->ebf", x, p["up"]))
    return jnp.einsum("ebf,efd,be->bd", h, p["down"], gates)


def experts_masked(p: Any, x: jax.Array) -> jax.Array:
    gates = _gates(p, x)
    h = jax.nn.relu(jnp.einsum("ebd,edf->ebf", jnp.where((gates > 0).T[..., None], x, 0), p["up"]))
    return jnp.einsum("be,ebd->bd", gates, jnp.einsum("ebf,efd->ebd", h, p["down"]))


def experts_gathered(p: Any, x: jax.Array) -> jax.Array:
    best, chosen = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    h = jax.nn.relu(jnp.einsum("bd,bkdf->bkf", x, p["up"][chosen]))
    return jnp.einsum("bkf,bkfd,bk->bd", h, p["down"][chosen], best)


def experts_ragged(p: Any, x: jax.Array) -> jax.Array:
    chosen = jnp.argmax(x @ p["router"], -1)
    order, sizes = jnp.argsort(chosen), jnp.bincount(chosen, length=EXPERTS).astype(jnp.int32)
    h = jax.nn.relu(lax.ragged_dot(x[order], p["up"], sizes))
    return lax.ragged_dot(h, p["down"], sizes)[jnp.argsort(order)]


def _gates(p: Any, x: jax.Array) -> jax.Array:
    best, chosen = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    return jnp.zeros((len(x), EXPERTS)).at[jnp.arange(len(x))[:, None], chosen].set(best)


def taken_rows(p: Any, x: jax.Array) -> jax.Array:
    best = lax.top_k(x @ p["up"], 1024)[1]
    return jnp.einsum("bkd,bk->bd", p["down"][best], jnp.ones((len(x), 1024)))


F32 = two(shape(D, WIDTH), shape(WIDTH, D))
SCALES = {"up_scale": shape(WIDTH), "down_scale": shape(D)}
STACKED = two(shape(EXPERTS, D, WIDTH), shape(EXPERTS, WIDTH, D), router=shape(D, EXPERTS))


def stored(dtype: Any) -> dict[str, Any]:
    return two(shape(D, WIDTH, dtype=dtype), shape(WIDTH, D, dtype=dtype), **SCALES)


WRITTEN: dict[str, tuple[Function, dict[str, Any]]] = {
    "plain": (plain, F32),
    "int8, scaled before": (scaled_before, stored(jnp.int8)),
    "int8, scaled after": (scaled_after, stored(jnp.int8)),
    "int4": (scaled_after, stored(jnp.int4)),
    "float8": (scaled_before, stored(jnp.float8_e4m3fn)),
    "w8a8": (w8a8, stored(jnp.int8)),
    "in blocks": (in_blocks, stored(jnp.int8) | {"up_scale": shape(4, WIDTH), "down_scale": shape(16, D)}),
    "packed": (packed, two(shape(D // 8, WIDTH, dtype=jnp.int32), shape(WIDTH // 8, D, dtype=jnp.int32))),
    "adapted": (adapted, F32 | {"a": shape(D, 256), "b": shape(256, WIDTH)}),
    "convolved": (convolved, {"kernel": shape(5, D, D)}),
    "experts, all computed": (experts_dense, STACKED),
    "experts, masked": (experts_masked, STACKED),
    "experts, gathered": (experts_gathered, STACKED),
    "experts, ragged": (experts_ragged, STACKED),
    "rows taken by number": (taken_rows, F32),
}

# --------------------------------------------------------------------------- where it stands


def in_scan(block: Function) -> Function:
    return lambda p, x: lax.scan(lambda h, layer: (h + block(layer, h), None), x, p)[0]


def in_branch(block: Function) -> Function:
    return lambda p, x: lax.cond(x[0, 0] > 0, lambda x: block(p, x), lambda x: x, x)


def in_loop(block: Function) -> Function:
    return lambda p, x: lax.fori_loop(0, 3, lambda _, x: block(p, x), x)


def prefetched(block: Function) -> Function:
    """The next layer's weights are carried by the loop."""

    def program(p: Any, x: jax.Array) -> jax.Array:
        def body(i: jax.Array, state: Any) -> Any:
            x, layer = state
            return x + block(layer, x), jax.tree.map(lambda w: w[(i + 1) % 2], p)

        return lax.fori_loop(0, 2, body, (x, jax.tree.map(lambda w: w[0], p)))[0]

    return program


def in_shard_map(block: Function) -> Function:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(block, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)


def mapped(block: Function) -> Function:
    return lambda p, x: jax.pmap(block, in_axes=(None, 0))(p, x[None])[0]


STANDS: dict[str, Function] = {
    "alone": lambda block: block,
    "in a scan": in_scan,
    "prefetched": prefetched,
    "in a branch": in_branch,
    "in a loop": in_loop,
    "in a shard_map": in_shard_map,
    "in a pmap": mapped,
    "in a shard_map in a loop": lambda block: in_loop(in_shard_map(block)),
    "in a scan in a shard_map": lambda block: in_shard_map(in_scan(block)),
}


def program(written: str, stands: str) -> tuple[Function, Any]:
    block, params = WRITTEN[written]
    function = STANDS[stands](block)
    if "scan" in stands or stands == "prefetched":
        params = jax.tree.map(lambda w: shape(2, *w.shape, dtype=w.dtype), params)
    return function, params


@pytest.mark.diagonal(keep=40)
@pytest.mark.parametrize("stands", STANDS)
@pytest.mark.parametrize("written", WRITTEN)
def test_every_weight_of_a_product_is_spoken_of(written: str, stands: str) -> None:
    function, params = program(written, stands)
    assert weights_of_products(lambda a: function(*a), (params, shape(2, D)))  # the check itself sees the weights
    assert not silent(function, params, shape(2, D))


@given(block=ffns())
@settings(max_examples=8, deadline=None)
def test_every_weight_of_a_generated_block_is_spoken_of(block: Any) -> None:
    params, x = block.arguments()
    widened = jax.tree.map(lambda w: shape(*w.shape, dtype=w.dtype), params)
    assert not silent(block.function, widened, x)


@given(head=heads())
@settings(max_examples=8, deadline=None)
def test_every_weight_of_a_generated_head_is_spoken_of(head: Any) -> None:
    params, x = head.arguments()
    assert not silent(head.function, params, x)


def test_a_transformed_program_speaks_of_what_stands_in_its_shard_map(rng: np.random.Generator) -> None:
    params = {name: jnp.asarray(rng.normal(size=s.shape), s.dtype) for name, s in F32.items()}
    step = hire.transform(jax.jit(in_shard_map(plain)))
    step(params, jnp.ones((2, D)))
    (site,) = step.report().sites
    assert (site.kind, site.weights) == ("ffn", ("p['up']", "p['down']"))
