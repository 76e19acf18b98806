"""Inputs quantised at run time (w8a8): sums of whole numbers, repeated on gathered rows and equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from tests.support.drawn import drawn

D, FF, VOCABULARY = 64, 512, 2048
Params = dict[str, jax.Array]
Product = Callable[[Params, jax.Array], jax.Array]


def params(seed: int, d: int, n: int) -> Params:
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-1, 0, (n,)) / 127
    return {"q": jnp.asarray(rng.integers(-127, 128, (d, n)), jnp.int8), "s": jnp.asarray(scale, jnp.float32)}


def sums(x: jax.Array, q: jax.Array) -> jax.Array:
    return lax.dot_general(x, q, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)


def divided(p: Params, x: jax.Array) -> jax.Array:
    """As sglang-jax: the largest number of a row becomes 127."""
    s = jnp.max(jnp.abs(x), -1, keepdims=True) / 127
    return sums(jnp.round(x / s).astype(jnp.int8), p["q"]) * s * p["s"]


def multiplied(p: Params, x: jax.Array) -> jax.Array:
    """As keras: the inverse scale, clipped, and both scales undone at once."""
    s = 127 / (jnp.max(jnp.abs(x), -1, keepdims=True) + 1e-7)
    whole = jnp.clip(jnp.round(x * s), -127, 127).astype(jnp.int8)
    return sums(whole, p["q"]).astype(jnp.float32) / (s * (1 / p["s"]))


def guarded(p: Params, x: jax.Array) -> jax.Array:
    """A row of zeros has the scale 1."""
    largest = jnp.max(jnp.abs(x), -1, keepdims=True)
    s = jnp.where(largest == 0, 1, largest / 127)
    return sums(jnp.round(x / s).astype(jnp.int8), p["q"]).astype(jnp.float32) * (s * p["s"])


def flat_scale(p: Params, x: jax.Array) -> jax.Array:
    """One number a row, without a dimension of length one."""
    s = jnp.max(jnp.abs(x), -1) / 127
    whole = jnp.round(x / s[:, None]).astype(jnp.int8)
    return p["s"] * (s[:, None] * sums(whole, p["q"]))


def static(p: Params, x: jax.Array) -> jax.Array:
    """A scale that calibration found."""
    whole = jnp.clip(jnp.round(x / 0.05), -127, 127).astype(jnp.int8)
    return sums(whole, p["q"]) * (0.05 * p["s"])


def as_qwix(p: Params, x: jax.Array) -> jax.Array:
    """A scale for 127.5, 1 where a row is almost zero; the weight's scale keeps its dimensions."""
    s = jnp.max(jnp.abs(x), -1, keepdims=True) / 127.5
    s = jnp.where(s < jnp.sqrt(jnp.finfo(jnp.float32).tiny), 1, s)
    whole = jnp.round(x / s).astype(jnp.int8)
    return (sums(whole, p["q"]).astype(jnp.float32) * s) * p["s"][None, :]


PRODUCTS = {f.__name__: f for f in (divided, multiplied, guarded, flat_scale, static, as_qwix)}


def plain(product: Product) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    return lambda p, x: product(p["down"], jax.nn.relu(product(p["gate"], x)))


def gated(product: Product) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    return lambda p, x: product(p["down"], jax.nn.relu(product(p["gate"], x)) * product(p["up"], x))


def block_params(seed: int = 0) -> dict[str, Any]:
    return {"gate": params(seed, D, FF), "up": params(seed + 1, D, FF), "down": params(seed + 2, FF, D)}


def inputs(batch: int, seed: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, D)), jnp.float32)


EXACT = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.75),))
FULL = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), density=1.0, group=8),))


SLOW = pytest.mark.slow
FORMS = [(plain, 1), pytest.param(plain, 4, marks=SLOW), pytest.param(gated, 1, marks=SLOW), (gated, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("block", "batch"), FORMS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_block_is_equal_bit_for_bit(name: str, block: Callable[[Product], Any], batch: int) -> None:
    function, given, x = jax.jit(block(PRODUCTS[name])), block_params(), inputs(batch)
    wanted = np.asarray(function(given, x))
    assert np.abs(wanted).max() > 0
    for config in (EXACT, FULL):
        step = hire.transform(function, config)
        np.testing.assert_array_equal(step(given, x), wanted)
        (site,) = step.report().sites
        assert (site.kind, site.gated, site.dtype, site.computed) == ("ffn", block is gated, "int8", "int32")
        assert step.report().rewritten
        assert step.report().misses == ()


@pytest.mark.slow
def test_nothing_of_the_first_products_runs_on() -> None:
    """The scale of h is read behind the block: it is made of the neurons that were computed."""
    step = hire.transform(jax.jit(gated(divided)), EXACT)
    step(block_params(), inputs(1))
    (decision,) = step.report().decisions
    gate, limits = D * FF, 8 * FF
    assert decision.sparse_bytes <= gate + 0.75 * (decision.dense_bytes - gate) + limits


@pytest.mark.slow
def test_the_predicted_neurons_are_those_of_the_scaled_sums() -> None:
    """A bias stands against sums that their scales make a hundred times smaller."""
    d, width = 128, 1024
    rng = np.random.default_rng(0)
    up, down = params(0, d, width), params(1, width, d)
    bias = drawn(rng.normal(size=width) * 4, jnp.float32)

    def block(p: dict[str, Any], x: jax.Array) -> jax.Array:
        return divided(p["down"], jax.nn.relu(divided(p["up"], x) + bias))

    given, x = {"up": up, "down": down}, drawn(rng.normal(size=(4, d)), jnp.float32)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=4, columns=32), candidates=width // 2, group=1)
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,)))
    z = np.asarray(divided(up, x) + bias)
    best = np.sort(np.argsort(-z.max(0))[: width // 2])
    kept = np.zeros_like(z)
    kept[:, best] = np.maximum(z[:, best], 0)
    wanted, got = divided(down, jnp.asarray(kept)), step(given, x)
    assert step.report().rewritten
    assert jnp.linalg.norm(got - wanted) < 0.1 * jnp.linalg.norm(wanted)


@pytest.mark.slow
def test_a_row_of_zeros_is_what_dense_makes_of_it() -> None:
    given, x = block_params(), inputs(4).at[1].set(0)
    for product in (guarded, multiplied, divided):
        function = jax.jit(gated(product))
        np.testing.assert_array_equal(hire.transform(function, EXACT)(given, x), function(given, x))


def of_float8(p: Params, x: jax.Array) -> jax.Array:
    """Both factors in float8, summed in float32."""
    s = jnp.max(jnp.abs(x), -1, keepdims=True) / 448
    narrow, q = (x / s).astype(jnp.float8_e4m3fn), p["q"].astype(jnp.float8_e4m3fn)
    y = lax.dot_general(narrow, q, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return y * s * p["s"]


@pytest.mark.slow
@pytest.mark.parametrize("block", [plain, gated])
def test_products_of_float8(block: Callable[[Product], Any]) -> None:
    function, given = jax.jit(block(of_float8)), block_params()
    for matrix in given.values():
        matrix["q"] = (matrix["q"].astype(jnp.float32) / 16).astype(jnp.float8_e4m3fn)
    for batch in (1, 4):
        wanted = np.asarray(function(given, inputs(batch)))
        step = hire.transform(function, EXACT)
        np.testing.assert_allclose(step(given, inputs(batch)), wanted, rtol=0, atol=0.04 * np.abs(wanted).max())
        (site,) = step.report().sites
        assert (site.dtype, site.computed) == ("float8_e4m3fn", "float32")
        assert step.report().rewritten


def in_blocks(p: Params, x: jax.Array) -> jax.Array:
    """Sums of 16 inputs each, with scales of their own."""
    (d, n), s = p["q"].shape, jnp.max(jnp.abs(x), -1, keepdims=True) / 127
    whole = jnp.round(x / s).astype(jnp.int8).reshape(-1, d // 16, 16)
    dims = (((2,), (1,)), ((1,), (0,)))
    y = lax.dot_general(whole, p["q"].reshape(d // 16, 16, n), dims, preferred_element_type=jnp.int32)
    return jnp.sum(y * s * p["s"], 0)


def test_sums_in_blocks_of_inputs_are_a_miss() -> None:
    report = hire.inspect(jax.jit(plain(in_blocks)), block_params(), inputs(1))
    assert report.sites == ()
    assert [("added up" in miss.reason) for miss in report.misses] == [True, True], report.misses


def unsigned(p: Params, x: jax.Array) -> jax.Array:
    """What a ReLU leaves has no sign: uint8 times int8, which JAX widens before the product."""
    s = jnp.max(x, -1, keepdims=True) / 255
    return sums(jnp.round(x / s).astype(jnp.uint8), p["q"]) * s * p["s"]


def test_inputs_without_a_sign() -> None:
    def block(p: dict[str, Any], x: jax.Array) -> jax.Array:
        return unsigned(p["down"], jax.nn.relu(divided(p["gate"], x)))

    step = hire.transform(jax.jit(block), EXACT)
    np.testing.assert_array_equal(step(block_params(), inputs(1)), jax.jit(block)(block_params(), inputs(1)))
    assert step.report().rewritten
    signed = hire.inspect(
        lambda p, x: unsigned(p["down"], jax.nn.silu(divided(p["gate"], x))), block_params(), inputs(1)
    )
    assert all("depend on zeros" in miss.reason for miss in signed.misses), signed.misses  # the largest may be below 0


def asymmetric(p: Params, x: jax.Array) -> jax.Array:
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    s = (high - low) / 254
    whole = jnp.round((x - low) / s - 127).astype(jnp.int8)
    return (sums(whole, p["q"]) + (low / s + 127) * jnp.sum(p["q"], 0)) * s * p["s"]


def mean_scaled(p: Params, x: jax.Array) -> jax.Array:
    s = jnp.mean(jnp.abs(x), -1, keepdims=True) / 40
    return sums(jnp.clip(jnp.round(x / s), -127, 127).astype(jnp.int8), p["q"]) * s * p["s"]


@pytest.mark.parametrize("product", [asymmetric, mean_scaled])
def test_a_scale_that_depends_on_zeros_is_a_miss(product: Product) -> None:
    report = hire.inspect(jax.jit(plain(product)), block_params(), inputs(1))
    assert report.sites == ()
    assert {miss.weight.split("'")[1] for miss in report.misses} == {"gate", "down"}
    if product is mean_scaled:
        assert all("numbers of its row that depend on zeros" in miss.reason for miss in report.misses), report.misses


@pytest.mark.slow
def test_layers_in_a_scan() -> None:
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(block_params(seed) for seed in (0, 10, 20)))

    def layers(p: dict[str, Any], x: jax.Array) -> jax.Array:
        def body(x: jax.Array, own: dict[str, Any]) -> tuple[jax.Array, None]:
            y = x + gated(divided)(own, x)
            return y / jnp.max(jnp.abs(y)), None

        return lax.scan(body, x, p)[0]

    function = jax.jit(layers)
    for batch in (1, 4):
        step = hire.transform(function, EXACT)
        np.testing.assert_allclose(step(stack, inputs(batch)), function(stack, inputs(batch)), rtol=1e-6, atol=1e-7)
        assert step.report().sites[0].repeat == 3
        assert step.report().rewritten


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_head_of_whole_numbers(name: str, batch: int) -> None:
    def head(p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = PRODUCTS[name](p, x)
        return jnp.argmax(logits, -1), lax.top_k(logits, 4)[0]

    given, x = params(0, D, VOCABULARY), inputs(batch)
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=VOCABULARY)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    for got, wanted in zip(step(given, x), jax.jit(head)(given, x), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert step.report().rewritten
