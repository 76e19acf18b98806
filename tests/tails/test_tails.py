"""Heads as engines write them: whatever stands between the product and the winner, the tokens are those of dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

V, D = 2048, 32
Request = dict[str, Any]


def request(rng: np.random.Generator, batch: int) -> Request:
    """What a server hands over with a batch: masks, penalties, temperatures, keys."""
    return {
        "seen": jnp.asarray(rng.random((batch, V)) < 0.1),
        "allowed": jnp.asarray(rng.random((1, V)) < 0.5),
        "bits": jnp.asarray(rng.integers(-(2**31), 2**31, size=(batch, V // 32)), jnp.int32),
        "forbidden": jnp.asarray(rng.integers(0, V, size=8), jnp.int32),
        "bias": drawn(rng.normal(size=V) * 3, jnp.float32),
        "biases": drawn(rng.normal(size=(batch, V)) * 3, jnp.float32),
        "heat": jnp.asarray(rng.uniform(0.5, 2, size=batch), jnp.float32),
        "temperature": jnp.asarray(rng.choice([0.0, 0.7, 1.3], size=batch), jnp.float32),
        "key": jax.random.key(int(rng.integers(1 << 30))),
    }


def greedy(z: jax.Array) -> jax.Array:
    return jnp.argmax(z, axis=-1)


def sampled(z: jax.Array, q: Request) -> jax.Array:
    return jax.random.categorical(q["key"], z, axis=-1)


def mixed(z: jax.Array, q: Request) -> jax.Array:
    """As tpu-inference does: greedy rows have a temperature of nearly zero."""
    heat = q["temperature"]
    scaled = z / jnp.where(heat < 1e-5, 1.0, heat)[:, None]
    return jnp.where(heat < 1e-5, greedy(z), sampled(scaled, q))


def penalised(z: jax.Array, q: Request) -> jax.Array:
    return jnp.where(q["seen"], jnp.where(z > 0, z / 1.2, z * 1.2), z)


def unpacked(q: Request) -> jax.Array:
    return ((q["bits"][:, :, None] >> jnp.arange(32)) & 1).reshape(len(q["bits"]), V) > 0


TAILS: dict[str, Callable[[jax.Array, Request], Any]] = {
    "a mask for all rows": lambda z, q: greedy(jnp.where(q["allowed"], z, -jnp.inf)),
    "a mask for each row": lambda z, q: greedy(jnp.where(q["seen"], -jnp.inf, z)),
    "a large negative number instead of -inf": lambda z, q: greedy(jnp.where(q["seen"], -1e30, z)),
    "a packed mask": lambda z, q: greedy(jnp.where(unpacked(q), z, -jnp.inf)),
    "a penalty for repetition": lambda z, q: greedy(penalised(z, q)),
    "a bias that changes with every call": lambda z, q: greedy(z + q["bias"]),
    "forbidden tokens": lambda z, q: greedy(z.at[:, q["forbidden"]].set(-jnp.inf)),
    "forbidden tokens, then a softcap": lambda z, q: greedy(30 * jnp.tanh(z.at[:, q["forbidden"]].set(-1e9) / 30)),
    "a padded vocabulary": lambda z, q: greedy(z[:, : V - 100]),
    "a padded vocabulary, masked": lambda z, q: greedy(jnp.where(q["allowed"][:, : V - 7], z[:, : V - 7], -jnp.inf)),
    "a temperature for each row": lambda z, q: greedy(z / (q["temperature"][:, None] + 0.5)),
    "a temperature for each row, straight from its argument": lambda z, q: greedy(z / q["heat"][:, None]),
    "a bias for each row": lambda z, q: greedy(z + q["biases"]),
    "sampling behind a penalty and a temperature": lambda z, q: sampled(penalised(z, q) / 0.8, q),
    "greedy and sampled rows in one batch": mixed,
    "greedy and sampled rows behind a mask": lambda z, q: mixed(jnp.where(q["allowed"], z, -jnp.inf), q),
    "the best eight behind a mask": lambda z, q: jax.lax.top_k(jnp.where(q["allowed"], z, -jnp.inf), 8)[1],
    "a winner and the largest value behind a penalty": lambda z, q: (greedy(penalised(z, q)), penalised(z, q).max(-1)),
}


def gaussian(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(V, D))


def near_ties(rng: np.random.Generator) -> np.ndarray:
    rows = gaussian(rng)[rng.integers(0, V // 4, V)].astype(np.float32)
    return np.where(rng.random(rows.shape) < 0.3, np.nextafter(rows, np.float32(np.inf)), rows)


@pytest.mark.diagonal(keep=2)
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("make", [gaussian, near_ties], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", TAILS)
def test_the_default_gives_the_tokens_of_dense(
    name: str, make: Callable[..., np.ndarray], batch: int, rng: np.random.Generator
) -> None:
    def step(w: jax.Array, x: jax.Array, q: Request) -> Any:
        return TAILS[name]((x @ w.T).astype(jnp.float32), q)

    fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
    w = jnp.asarray(make(rng), jnp.float32)
    for _ in range(12):
        x, q = drawn(rng.normal(size=(batch, D)), jnp.float32), request(rng, batch)
        for got, wanted in zip(jax.tree.leaves(fast(w, x, q)), jax.tree.leaves(dense(w, x, q)), strict=True):
            if jnp.issubdtype(wanted.dtype, jnp.integer):
                np.testing.assert_array_equal(got, wanted)
            else:
                np.testing.assert_allclose(got, wanted, rtol=1e-5)
    report = fast.report()
    assert len(report.rewritten) == 1, str(report)
    if make is gaussian:
        assert report.certificates[0].proven > 0.5 * report.certificates[0].rows


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "name", ["a penalty for repetition", "greedy and sampled rows in one batch", "forbidden tokens"]
)
def test_narrow_heads_too(name: str, dtype: str, rng: np.random.Generator) -> None:
    for widened in (False, True):

        def step(w: jax.Array, x: jax.Array, q: Request, widened: bool = widened) -> Any:
            z = x @ w
            return TAILS[name](z.astype(jnp.float32) if widened else z, q)

        fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
        w = jnp.asarray(gaussian(rng).T, dtype)
        for _ in range(12):
            x, q = drawn(rng.normal(size=(3, D)), dtype), request(rng, 3)
            np.testing.assert_array_equal(fast(w, x, q), dense(w, x, q))
        assert len(fast.report().rewritten) == 1


@pytest.mark.slow
def test_all_tokens_forbidden_and_nothing_to_choose_is_what_dense_makes_of_it(rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array, allowed: jax.Array) -> jax.Array:
        return greedy(jnp.where(allowed, x @ w.T, -jnp.inf))

    fast, dense = hire.transform(jax.jit(step)), jax.jit(step)
    w, x = jnp.asarray(gaussian(rng), jnp.float32), drawn(rng.normal(size=(2, D)), jnp.float32)
    for row in (jnp.nan, 1.0):
        x = x.at[1, 0].mul(row)
        np.testing.assert_array_equal(fast(w, x, jnp.zeros((2, V), bool)), dense(w, x, jnp.zeros((2, V), bool)))
        one = jnp.zeros((2, V), bool).at[:, 77].set(True)
        np.testing.assert_array_equal(fast(w, x, one), dense(w, x, one))


def test_padding_rows_never_win_though_they_are_the_largest(rng: np.random.Generator) -> None:
    w = gaussian(rng)
    w[V - 100 :] *= 100
    w = jnp.asarray(w, jnp.float32)
    fast = hire.transform(lambda w, x: greedy((x @ w.T)[:, : V - 100]))
    for _ in range(10):
        x = drawn(rng.normal(size=(2, D)), jnp.float32)
        np.testing.assert_array_equal(fast(w, x), greedy((x @ w.T)[:, : V - 100]))
    assert fast.report().certificates[0].proven >= 18
