"""Matrices stored in few bits, and the ways in which models compute with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
