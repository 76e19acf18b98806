"""Weights that are stored narrow: gathered as they are stored, the author's own arithmetic repeated on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire

D, FF, VOCABULARY = 64, 256, 2048
Params = dict[str, jax.Array]
Matrix = Callable[[Params, str, jax.Array], jax.Array]


# --------------------------------------------------------------------------- how a matrix is stored


def int8(rng: np.random.Generator, d: int, n: int) -> jax.Array:
    return jnp.asarray(rng.integers(-127, 128, (d, n)), jnp.int8)


def scale(rng: np.random.Generator, *shape: int) -> jax.Array:
    """Of sizes that differ tenfold."""
    return jnp.asarray(10 ** rng.uniform(-1, 0, shape) / 127, jnp.float32)


def whole(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": int8(rng, d, n), "s": scale(rng)}


def per_channel(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": int8(rng, d, n), "s": scale(rng, n)}


def per_input(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": int8(rng, d, n), "s": scale(rng, d, 1)}


def with_zeros(rng: np.random.Generator, d: int, n: int) -> Params:
    z = jnp.asarray(rng.integers(-20, 20, (n,)), jnp.int8)
    return {"q": int8(rng, d, n), "s": scale(rng, n), "z": z}


def in_input_blocks(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": int8(rng, d, n), "s": scale(rng, d // 16, n)}


def in_output_blocks(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": int8(rng, d, n), "s": scale(rng, d, n // 16)}


def in_both(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": int8(rng, d, n), "s": scale(rng, d // 32, n // 16)}


def cast(dtype: Any) -> Callable[[np.random.Generator, int, int], Params]:
    def make(rng: np.random.Generator, d: int, n: int) -> Params:
        numbers = np.clip(rng.normal(size=(d, n)) * 3, -7, 7)
        return {"q": jnp.asarray(numbers, jnp.float32).astype(dtype), "s": scale(rng, n)}

    return make


def packed_bytes(rng: np.random.Generator, d: int, n: int) -> Params:
    return {"q": jnp.asarray(rng.integers(0, 256, (d // 2, n)), jnp.uint8), "s": scale(rng, n)}


def packed_words(rng: np.random.Generator, d: int, n: int) -> Params:
    words = rng.integers(-(2**31), 2**31, (d // 8, n))
    return {"q": jnp.asarray(words, jnp.int32), "s": scale(rng, d // 16, n), "z": scale(rng, d // 16, n)}


# --------------------------------------------------------------------------- how it is computed


def before(p: Params, x: jax.Array) -> jax.Array:
    return x @ (p["q"].astype(x.dtype) * p["s"].astype(x.dtype))


def wide_before(p: Params, x: jax.Array) -> jax.Array:
    return x @ (p["q"].astype(jnp.float32) * p["s"]).astype(x.dtype)


def after(p: Params, x: jax.Array) -> jax.Array:
    return (x @ p["q"].astype(x.dtype)) * p["s"].astype(x.dtype)


def mixed(p: Params, x: jax.Array) -> jax.Array:
    dims = (((1,), (0,)), ((), ()))
    return lax.dot_general(x, p["q"], dims, preferred_element_type=x.dtype) * p["s"].astype(x.dtype)


def turned(p: Params, x: jax.Array) -> jax.Array:
    """Kept by rows of the result."""
    kept = lax.optimization_barrier(p["q"].T)
    return jnp.einsum("bd,nd->bn", x, kept.astype(x.dtype) * p["s"].astype(x.dtype)[:, None])


def shifted(p: Params, x: jax.Array) -> jax.Array:
    return x @ ((p["q"].astype(x.dtype) - p["z"].astype(x.dtype)) * p["s"].astype(x.dtype))


def spread_blocks(p: Params, x: jax.Array) -> jax.Array:
    q, s = p["q"], p["s"]
    (d, n), (a, b) = q.shape, s.shape
    wide = q.reshape(a, d // a, b, n // b).astype(x.dtype) * s.astype(x.dtype)[:, None, :, None]
    return x @ wide.reshape(d, n)


def repeated(p: Params, x: jax.Array) -> jax.Array:
    d, n = p["q"].shape
    a, b = p["s"].shape
    s = jnp.repeat(jnp.repeat(p["s"], d // a, axis=0), n // b, axis=1)
    return x @ (p["q"].astype(x.dtype) * s.astype(x.dtype))


def interleaved(p: Params, x: jax.Array) -> jax.Array:
    q = p["q"]
    nibbles = jnp.stack([q & 15, q >> 4], 1).reshape(-1, q.shape[1])
    return x @ ((nibbles.astype(x.dtype) - 8) * p["s"].astype(x.dtype))


def halves(p: Params, x: jax.Array) -> jax.Array:
    q = p["q"]
    nibbles = jnp.concatenate([q & 15, q >> 4], 0)
    return x @ ((nibbles.astype(x.dtype) - 8) * p["s"].astype(x.dtype))


def words(p: Params, x: jax.Array) -> jax.Array:
    q = p["q"]
    numbers = (q[:, None] >> (4 * jnp.arange(8, dtype=jnp.int32))[:, None]) & 15
    numbers = numbers.reshape(len(p["s"]), -1, q.shape[1]).astype(x.dtype)
    wide = numbers * p["s"].astype(x.dtype)[:, None] - p["z"].astype(x.dtype)[:, None]
    return x @ wide.reshape(-1, q.shape[1])


def rounded(p: Params, x: jax.Array) -> jax.Array:
    """As keras trains for float8: stored wide, and rounded on the way."""
    narrow = jnp.clip(p["q"] / p["s"], -448, 448).astype(jnp.float8_e4m3fn)
    return x @ (narrow.astype(x.dtype) * p["s"].astype(x.dtype))


@dataclass(frozen=True)
class Stored:
    make: Callable[[np.random.Generator, int, int], Params]
    product: Callable[[Params, jax.Array], jax.Array]
    dtype: str = "int8"


STORED = {
    "one scale, before": Stored(whole, before),
    "one scale, after": Stored(whole, after),
    "channels, before": Stored(per_channel, before),
    "channels, computed in float32": Stored(per_channel, wide_before),
    "channels, after": Stored(per_channel, after),
    "channels, a product of both types": Stored(per_channel, mixed),
    "channels, by rows": Stored(per_channel, turned),
    "inputs": Stored(per_input, before),
    "asymmetric": Stored(with_zeros, shifted),
    "blocks of inputs": Stored(in_input_blocks, spread_blocks),
    "blocks of outputs": Stored(in_output_blocks, spread_blocks),
    "blocks of both": Stored(in_both, spread_blocks),
    "blocks, repeated": Stored(in_both, repeated),
    "int4": Stored(cast(jnp.int4), before, "int4"),
    "e4m3": Stored(cast(jnp.float8_e4m3fn), before, "float8_e4m3fn"),
    "e5m2": Stored(cast(jnp.float8_e5m2), after, "float8_e5m2"),
    "rounded to e4m3": Stored(cast(jnp.float32), rounded, "float32"),
    "two in a byte, interleaved": Stored(packed_bytes, interleaved, "uint8"),
    "two in a byte, halves": Stored(packed_bytes, halves, "uint8"),
    "eight in a word, asymmetric, in blocks": Stored(packed_words, words, "int32"),
}


@dataclass(frozen=True)
class Block:
    stored: Stored
    gated: bool

    def params(self, seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        make = self.stored.make
        return {"gate": make(rng, D, FF), "up": make(rng, D, FF), "down": make(rng, FF, D)}

    def __call__(self, p: dict[str, Any], x: jax.Array) -> jax.Array:
        product = self.stored.product
        h = jax.nn.relu(product(p["gate"], x))
        return product(p["down"], h * product(p["up"], x) if self.gated else h)


def inputs(batch: int, dtype: Any = jnp.float32, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, D)), dtype)


def close(got: jax.Array, wanted: jax.Array, tolerance: float) -> None:
    got, wanted = (np.asarray(a, np.float32) for a in (got, wanted))
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


EXACT = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.75),))
FULL = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), density=1.0, group=8),))


SLOW = pytest.mark.slow
FORMS = [(False, 1), pytest.param(False, 4, marks=SLOW), pytest.param(True, 1, marks=SLOW), (True, 4)]
FEW = ("channels, after", "blocks of both", "e4m3", "two in a byte, interleaved", "int4")
STACKED = [name if name in FEW else pytest.param(name, marks=SLOW) for name in STORED]


@pytest.mark.diagonal(keep=8)
@pytest.mark.parametrize(("gated", "batch"), FORMS)
@pytest.mark.parametrize("name", STORED)
def test_a_block_skips_zeros_of_rows_as_they_are_stored(name: str, gated: bool, batch: int) -> None:
    block, x = Block(STORED[name], gated), inputs(batch)
    params = block.params(0)
    step = hire.transform(jax.jit(block), EXACT)
    close(step(params, x), jax.jit(block)(params, x), 2e-6)
    (site,), (decision,) = step.report().sites, step.report().decisions
    wide = STORED[name].dtype == "float32"
    assert (site.dtype, site.computed, decision.action) == (STORED[name].dtype, "" if wide else "float32", "rewritten")
    assert wide or decision.dense_bytes < 4 * D * FF * (3 if gated else 2) // 2


@pytest.mark.diagonal(keep=4)
@pytest.mark.parametrize("name", STORED)
def test_full_width_is_dense(name: str) -> None:
    block = Block(STORED[name], gated=True)
    params = block.params(3)
    step = hire.transform(jax.jit(block), FULL)
    for batch in (1, 4):
        close(step(params, inputs(batch)), jax.jit(block)(params, inputs(batch)), 2e-6)
    assert step.report().rewritten


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("batch", [1, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("name", STACKED)
def test_a_block_that_computes_in_bfloat16(name: str, batch: int) -> None:
    block, x = Block(STORED[name], gated=True), inputs(batch, jnp.bfloat16)
    params = block.params(0)
    step = hire.transform(jax.jit(block), EXACT)
    close(step(params, x), jax.jit(block)(params, x), 3e-2)
    assert step.report().sites[0].dtype == STORED[name].dtype
    assert step.report().rewritten


# --------------------------------------------------------------------------- heads


@dataclass(frozen=True)
class Head:
    stored: Stored

    def params(self, seed: int) -> Params:
        return self.stored.make(np.random.default_rng(seed), D, VOCABULARY)

    def __call__(self, p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = self.stored.product(p, x)
        return jnp.argmax(logits, -1), lax.top_k(logits, 4)[0]


@pytest.mark.diagonal(keep=5)
@pytest.mark.parametrize("name", STORED)
def test_a_head_computes_its_candidates_as_they_are_stored(name: str) -> None:
    head = Head(STORED[name])
    params = head.params(0)
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=VOCABULARY)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    for batch in (1, 4):
        (winner, values), (wanted, best) = (f(params, inputs(batch)) for f in (step, jax.jit(head)))
        assert (winner == wanted).all()
        close(values, best, 2e-6)
    assert step.report().rewritten


def test_a_head_that_is_stored_narrow_is_dense_by_default_and_says_why() -> None:
    head = Head(STORED["channels, before"])
    step = hire.transform(jax.jit(head))
    step(head.params(0), inputs(1))
    (decision,) = step.report().decisions
    assert decision.action == "dense"
    assert "stored narrow already (int8)" in decision.reason


# --------------------------------------------------------------------------- layers, ranks, doubts


def stack(block: Block, layers: int) -> dict[str, Any]:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(block.params(seed) for seed in range(layers)))


@pytest.mark.diagonal(keep=2)
@pytest.mark.parametrize("batch", [1, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("name", STACKED)
def test_layers_in_a_scan_are_read_from_their_stack(name: str, batch: int) -> None:
    block = Block(STORED[name], gated=True)
    params, x = stack(block, 3), inputs(batch)

    def layers(p: dict[str, Any], x: jax.Array) -> jax.Array:
        def body(x: jax.Array, own: dict[str, Any]) -> tuple[jax.Array, None]:
            y = x + block(own, x)
            return y / jnp.max(jnp.abs(y)), None

        return lax.scan(body, x, p)[0]

    step = hire.transform(jax.jit(layers), EXACT)
    close(step(params, x), jax.jit(layers)(params, x), 5e-6)
    (site,) = step.report().sites
    assert (site.repeat, site.dtype) == (3, STORED[name].dtype)
    assert step.report().rewritten


@pytest.mark.parametrize("name", ["channels, before", "channels, after", "one scale, after"])
def test_neurons_are_ranked_by_the_scaled_product(name: str) -> None:
    """Scales differ by a factor of 100: unscaled products would choose other neurons."""
    d, width, rng = 128, 1024, np.random.default_rng(0)
    scales = jnp.asarray(10 ** rng.uniform(-2, 0, width if name != "one scale, after" else ()) / 127, jnp.float32)
    params = {"q": int8(rng, d, width), "s": scales}
    down = {"q": int8(rng, width, d), "s": scale(rng)}
    product = STORED[name].product

    def block(p: dict[str, Any], x: jax.Array) -> jax.Array:
        return product(p["down"], jax.nn.relu(product(p["up"], x)))

    x, given = jnp.asarray(rng.normal(size=(1, d)), jnp.float32), {"up": params, "down": down}
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=4, columns=32), candidates=width // 4, group=1)
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,)))
    z = np.asarray(product(params, x))
    best = np.argsort(-z[0])[: width // 4]
    kept = np.zeros_like(z)
    kept[0, best] = np.maximum(z[0, best], 0)
    wanted, dense = product(down, jnp.asarray(kept)), block(given, x)
    got = step(given, x)
    assert step.report().rewritten
    assert step.report().sites[0].activation == "relu"
    assert jnp.linalg.norm(got - wanted) < 0.15 * jnp.linalg.norm(wanted)
    assert jnp.linalg.norm(dense) > 0


def test_rows_are_gathered_narrow() -> None:
    block = Block(STORED["channels, before"], gated=True)
    params, x = block.params(0), inputs(1)
    step = hire.transform(jax.jit(block), EXACT)
    step(params, x)
    decision = step.report().decisions[0]
    assert decision.dense_bytes == 3 * D * FF + 4 * (2 * FF + D)
    assert decision.added_bytes <= 3 * (D + 4) * FF + 8 * FF  # copies by rows are narrow, too


# --------------------------------------------------------------------------- bad input


def block_of(product: Callable[[Params, jax.Array], jax.Array]) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    return lambda p, x: product(p["down"], jax.nn.relu(product(p["up"], x)))


def two(make: Callable[[np.random.Generator, int, int], Params]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"up": make(rng, D, FF), "down": make(rng, FF, D)}


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


# --------------------------------------------------------------------------- artifacts


@pytest.mark.diagonal(keep=2)
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
