"""Weights stored narrow: what is not taken, scales of zero, and artifacts that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.narrow_matrices import (
    EXACT,
    FF,
    FULL,
    STORED,
    Block,
    D,
    Params,
    after,
    before,
    close,
    inputs,
    packed_bytes,
    per_channel,
)


def block_of(product: Callable[[Params, jax.Array], jax.Array]) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    return lambda p, x: product(p["down"], jax.nn.relu(product(p["up"], x)))


def two(make: Callable[[np.random.Generator, int, int], Params]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"up": make(rng, D, FF), "down": make(rng, FF, D)}


@pytest.mark.slow
def test_rows_whose_scale_is_zero_are_zero() -> None:
    params = two(per_channel)
    params["up"]["s"] = params["up"]["s"].at[::3].set(0)
    for product in (before, after):
        step = hire.transform(jax.jit(block_of(product)), FULL)
        close(step(params, inputs(1)), block_of(product)(params, inputs(1)), 2e-6)
        assert step.report().rewritten


def divided(p: Params, x: jax.Array) -> jax.Array:
    return x @ (p["q"].astype(x.dtype) / p["s"])


def test_a_scale_that_divides_may_not_be_zero() -> None:
    params, x = two(per_channel), inputs(1)
    step = hire.transform(jax.jit(block_of(divided)), FULL)
    close(step(params, x), block_of(divided)(params, x), 2e-6)
    params["up"]["s"] = params["up"]["s"].at[3].set(0)
    with pytest.warns(hire.HireWarning, match="with its scales, gives NaN or Inf"):
        got = step(params, x)
    np.testing.assert_array_equal(got, jax.jit(block_of(divided))(params, x))


def odd(p: Params, x: jax.Array) -> jax.Array:
    q = p["q"]
    nibbles = jnp.stack([q & 15, q >> 4], 1).reshape(-1, q.shape[1])[:, : x.shape[1] - 1]
    return x[:, 1:] @ nibbles[: x.shape[1] - 1].astype(x.dtype)


def test_packed_rows_of_odd_width_are_a_miss() -> None:
    function = lambda p, x: odd(p["up"], x)  # noqa: E731
    report = hire.inspect(jax.jit(function), two(packed_bytes), inputs(1))
    assert report.sites == ()
    (miss,) = report.misses
    assert "mixes numbers and scales of a quantised weight" in miss.reason


def scaled_by_the_input(p: Params, x: jax.Array) -> jax.Array:
    return x @ (p["q"].astype(x.dtype) * jnp.max(x))


def looked_up(p: Params, x: jax.Array) -> jax.Array:
    return x @ (p["q"].astype(x.dtype) * p["s"])[:, jnp.argsort(p["s"])]


@pytest.mark.parametrize("product", [scaled_by_the_input, looked_up])
def test_what_is_computed_otherwise_is_a_miss(product: Callable[[Params, jax.Array], jax.Array]) -> None:
    report = hire.inspect(jax.jit(block_of(product)), two(per_channel), inputs(1))
    assert report.sites == ()
    assert len(report.misses) == 2
    assert all("quantised weight (int8" in miss.reason for miss in report.misses)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["channels, after", "e4m3", "two in a byte, interleaved", "e5m2"])
def test_an_artifact_holds_weights_as_they_are_stored(name: str, tmp_path: Path) -> None:
    block, x = Block(STORED[name], gated=True), inputs(1)
    params = block.params(0)
    write_tensors(params, tmp_path / "weights.safetensors")
    exported = jax.export.export(jax.jit(block))(params, x)
    artifact = hire.rewrite(exported, EXACT, weights=tmp_path / "weights.safetensors", platforms=("cpu",))
    loaded = hire.load(artifact.save(tmp_path / "model.hire"))
    close(loaded(x), jax.jit(block)(params, x), 2e-6)
    assert [d["action"] for d in artifact.report()["cpu"]["decisions"]] == ["rewritten"]


def write_tensors(tree: Any, path: Path) -> None:
    """A safetensors file as any producer writes it."""
    types = {"int8": "I8", "uint8": "U8", "float32": "F32", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
    header, data = {}, b""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        place = [len(data), len(data) + array.nbytes]
        name = ".".join(key.key for key in keys)
        header[name] = {"dtype": types[str(array.dtype)], "shape": array.shape, "data_offsets": place}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_an_artifact_cannot_hold_numbers_of_four_bits(tmp_path: Path) -> None:
    block, x = Block(STORED["int4"], gated=True), inputs(1)
    params = block.params(0)
    artifact = hire.rewrite(
        jax.export.export(jax.jit(block))(params, x), EXACT, weights={"p": params}, platforms=("cpu",)
    )
    with pytest.raises(hire.HireError, match="is stored as int4, which safetensors files cannot hold"):
        artifact.save(tmp_path / "model.hire")
