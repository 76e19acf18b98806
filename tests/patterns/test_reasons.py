"""What a miss says: the words of those who write models, and nothing that is not so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from test_nothing_silent import STANDS, D, in_shard_map, program, shape

import hire_compiler as hire


def reasons(written: str, stands: str = "alone") -> dict[str, str]:
    """The reason of every weight that is missed, in a program of ``test_nothing_silent``."""
    function, params = program(written, stands)
    report = hire.inspect(lambda p, x: function(p, x), params, shape(2, D))
    return {miss.weight.split("'")[1]: miss.reason for miss in report.misses}


COMPUTED = ("float32", "int32")
STORED = {
    "int8, scaled before": "int8",
    "int8, scaled after": "int8",
    "int4": "int4",
    "float8": "float8_e4m3fn",
    "in blocks": "int8",
    "packed": "int32",
    "w8a8": "int8",
}


@pytest.mark.diagonal
@pytest.mark.parametrize("stands", ["alone", "in a scan", "in a shard_map"])
@pytest.mark.parametrize("written", STORED)
def test_a_weight_that_is_stored_narrow_is_a_weight(written: str, stands: str) -> None:
    function, params = program(written, stands)
    report = hire.inspect(lambda p, x: function(p, x), params, shape(2, D))
    (site,) = report.sites
    assert (site.kind, site.dtype, site.computed) == ("ffn", STORED[written], COMPUTED[written == "w8a8"])
    assert report.misses == ()


@pytest.mark.diagonal
@pytest.mark.parametrize("stands", ["alone", "in a scan"])
@pytest.mark.parametrize("written", ["experts, gathered"])
def test_experts_are_called_experts(written: str, stands: str) -> None:
    said = reasons(written, stands)
    for weight in ("up", "down"):
        assert re.search("8 experts|one of 8 parameters, picked by what was computed", said[weight]), said[weight]
        for wrong in ("heads", "fused", "cut into parts", "stored in a buffer", "no more than", "adapters"):
            assert wrong not in said[weight], said[weight]
    assert said["router"] == "a router: it scores 8 experts"


@pytest.mark.parametrize("stands", ["alone", "in a scan", "in a shard_map"])
@pytest.mark.parametrize("written", ["experts, all computed", "experts, masked", "experts, ragged"])
def test_experts_that_are_all_computed_are_a_site(written: str, stands: str) -> None:
    function, params = program(written, stands)
    report = hire.inspect(lambda p, x: function(p, x), params, shape(2, D))
    layers = 1 + (written == "experts, ragged")  # on a CPU each ragged product is a sum over all experts
    assert [(site.kind, site.width) for site in report.sites] == [("experts", 8)] * layers
    assert [miss.reason for miss in report.misses] == ["a router: it scores 8 experts"]


def test_a_shared_expert_gate_of_one_row_is_a_projection() -> None:
    def gated(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x @ p["gate"]) * (jax.nn.relu(x @ p["up"]) @ p["down"])

    params = {"gate": shape(D, 1), "up": shape(D, 256), "down": shape(256, D)}
    report = hire.inspect(gated, params, shape(1, D))
    assert [miss.reason for miss in report.misses] == [
        "its 1 rows are no more than its 64 inputs: a projection, no vocabulary"
    ]


def attention(p: Any, x: jax.Array, keys: jax.Array, values: jax.Array, at: jax.Array) -> Any:
    q, k, v = ((x @ p[name]).reshape(len(x), 4, 16) for name in "qkv")
    keys = lax.dynamic_update_slice(keys, k[:, None], (0, at, 0, 0))
    values = lax.dynamic_update_slice(values, v[:, None], (0, at, 0, 0))
    weights = jax.nn.softmax(jnp.einsum("bhd,bshd->bhs", q, keys) / 4)
    return jnp.einsum("bhs,bshd->bhd", weights, values).reshape(len(x), -1) @ p["o"], keys, values


def test_projections_of_attention_are_said_to_be_expected() -> None:
    params = {name: shape(D, D) for name in "qkvo"}
    cache = shape(2, 32, 4, 16)
    report = hire.inspect(attention, params, shape(2, D), cache, cache, shape(dtype=jnp.int32))
    said = {miss.weight.split("'")[1]: miss.reason for miss in report.misses}
    assert set(said) == set("qkvo")  # and nothing of queries times keys, of weights times values
    assert all(said[name].startswith("a projection of attention") and "expected" in said[name] for name in "qkv")
    assert said["o"].startswith("the output projection of attention: expected")


def test_rows_of_one_device_are_no_router() -> None:
    """In each device's program a projection has few rows; that makes no router of it."""
    function = in_shard_map(lambda p, x: jnp.tanh(x @ p["w"]))
    (miss,) = hire.inspect(function, {"w": shape(D, 4)}, shape(2, D)).misses
    assert "router" not in miss.reason


def test_a_kernel_that_reads_a_weight_is_named() -> None:
    text = """
    func.func public @main(%x: tensor<2x64xf32>, %w: tensor<64x512xf32>) -> tensor<2x512xf32> {
      %0 = stablehlo.custom_call @fused_mlp(%x, %w) : (tensor<2x64xf32>, tensor<64x512xf32>) -> tensor<2x512xf32>
      return %0 : tensor<2x512xf32>
    }"""
    (miss,) = hire.inspect(text).misses
    assert (miss.weight, miss.reason) == (
        "arg1",
        "a custom call (fused_mlp) reads it: what that computes cannot be seen",
    )


def test_a_ragged_product_is_named() -> None:
    text = """
    func.func public @main(%x: tensor<8x64xf32>, %w: tensor<4x64x256xf32>, %sizes: tensor<4xi32>) -> tensor<8x256xf32> {
      %0 = "chlo.ragged_dot"(%x, %w, %sizes) <{ragged_dot_dimension_numbers = #chlo.ragged_dot<
        lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1],
        lhs_ragged_dimensions = [0], rhs_group_dimensions = [0]>}>
        : (tensor<8x64xf32>, tensor<4x64x256xf32>, tensor<4xi32>) -> tensor<8x256xf32>
      return %0 : tensor<8x256xf32>
    }"""
    (miss,) = hire.inspect(text).misses
    assert miss.weight == "arg1"
    assert "ragged" in miss.reason


@pytest.mark.parametrize("stands", [name for name in STANDS if "shard_map" in name or "pmap" in name])
def test_a_site_inside_says_on_how_many_devices(stands: str) -> None:
    function, params = program("plain", stands)
    (site,) = hire.inspect(lambda p, x: function(p, x), params, shape(2, D)).sites
    assert (site.kind, site.devices) == ("ffn", 1)
    assert site.repeat == (2 if "scan" in stands else 1)


QUANTISED_TYPES = """
func.func public @main(%x: tensor<2x64xf32>, %w: tensor<64x256x!quant.uniform<i8:f32, 0.1:0>>) -> tensor<2x256xf32> {
  %0 = stablehlo.uniform_dequantize %w : (tensor<64x256x!quant.uniform<i8:f32, 0.1:0>>) -> tensor<64x256xf32>
  %1 = stablehlo.dot_general %x, %0, contracting_dims = [1] x [0]
    : (tensor<2x64xf32>, tensor<64x256xf32>) -> tensor<2x256xf32>
  return %1 : tensor<2x256xf32>
}"""


def test_quantised_types_are_a_miss_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "model.mlir").write_text(QUANTISED_TYPES)
    for target in (QUANTISED_TYPES, tmp_path / "model.mlir"):
        (miss,) = hire.inspect(target).misses
        assert "quantised types" in miss.reason
        assert "integers with their scales" in miss.reason


@pytest.mark.parametrize("summed", ["whole", "as floats"])
def test_a_quantiser_with_a_zero_point_is_named(summed: str) -> None:
    def product(p: Any, name: str, x: jax.Array) -> jax.Array:
        low, high = (jnp.clip(edge(x, -1, keepdims=True), *to) for edge, to in ((jnp.min, (None, 0)), (jnp.max, (0,))))
        scale = (high - low) / 255
        zero = jnp.round(-low / scale) - 128
        whole = jnp.clip(jnp.round(x / scale) + zero, -128, 127).astype(jnp.int8)
        sums = lax.dot_general(whole, p[name], (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
        if summed == "whole":
            sums -= zero.astype(jnp.int32) * jnp.sum(p[name].astype(jnp.int32), 0)
            return sums * scale * p[f"{name}_scale"]
        return (sums - zero * p[f"{name}_sums"]) * scale * p[f"{name}_scale"]

    def step(p: Any, x: jax.Array) -> jax.Array:
        return product(p, "down", jax.nn.relu(product(p, "up", x @ p["before"])))

    params = {"up": shape(D, 256, dtype=jnp.int8), "down": shape(256, D, dtype=jnp.int8), "before": shape(D, D)}
    params |= {f"{name}_{what}": shape(n) for name, n in (("up", 256), ("down", D)) for what in ("scale", "sums")}
    said = {miss.weight.split("'")[1]: miss.reason for miss in hire.inspect(step, params, shape(2, D)).misses}
    assert said.pop("before").startswith("its result goes into another product")
    named = "the neurons of its block are quantised with a zero point, so zeros do not stay zero"
    assert said == {"up": named, "down": named}


def test_code_that_cannot_be_repeated_is_named_once_and_for_all_products_of_its_block() -> None:
    """What stands in the gate of a GLU keeps gate, up and down from being a site, and is said of each alike."""

    def glu(p: Any, x: jax.Array) -> jax.Array:
        z = x @ p["gate"]
        return (z * jax.scipy.special.gammaln(1 + jnp.abs(z)) * (x @ p["up"])) @ p["down"]

    params = {"gate": shape(D, 256), "up": shape(D, 256), "down": shape(256, D)}
    misses = hire.inspect(glu, params, shape(1, D)).misses
    assert len(misses) == 3
    (reason,) = {miss.reason for miss in misses}
    # From 0.12 on JAX writes lgamma out in bits.
    assert reason in {f"{op} stands between the matrix products" for op in ("chlo.lgamma", "bitcast_convert")}


@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_behind_a_convolution_is_told_so(transposed: bool) -> None:
    convolve = lax.conv_transpose if transposed else lax.conv_general_dilated

    def function(p: Any, x: jax.Array) -> jax.Array:
        h = convolve(x, p["kernel"], (2,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
        return jax.nn.relu(h + p["bias"]) @ p["down"]

    params = {"kernel": shape(4, D, 256), "bias": shape(256), "down": shape(256, D)}
    misses = hire.inspect(function, params, shape(1, 8, D)).misses
    convolution = "a convolution with a window of several positions, or in groups"
    assert [miss.reason for miss in misses] == [
        convolution,
        f"its input is made by {convolution}: no block of matrix products ends here",
    ]
