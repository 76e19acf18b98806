"""Tails over a vocabulary that is split: tokens of dense, proven shard by shard, and little said between the shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import batch_axis, mesh_of, place, talk
from tests.support import engine_tails

V, D, BATCH = 1024, 24, 4
STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=192, certify="strict"),)
)
Request = dict[str, jax.Array]


def request(rng: np.random.Generator, mesh: Any) -> Request:
    """What a server hands over with a batch; what has a vocabulary is split as the logits are."""
    data = batch_axis(mesh)
    wide = {
        "keep": rng.random((BATCH, V)) < 0.9,
        "seen": rng.random((BATCH, V)) < 0.1,
        "bias": rng.normal(size=(BATCH, V)).astype(np.float32),
    }
    narrow = {"heat": rng.uniform(0.5, 1.2, BATCH), "temperature": rng.choice([0.0, 0.7], BATCH)}
    return {
        **{name: place(mesh, array, data, "model") for name, array in wide.items()},
        **{name: place(mesh, array.astype(np.float32), data) for name, array in narrow.items()},
        "ids": place(mesh, rng.integers(0, V, 8).astype(np.int32)),
        "bits": place(mesh, rng.integers(0, 1 << 31, (BATCH, V // 32)).astype(np.int32), data),
        "key": jax.device_put(jax.random.key(int(rng.integers(99))), jax.NamedSharding(mesh, jax.P())),
    }


def allowed(z: jax.Array, q: Request) -> jax.Array:
    """A mask of a grammar, 32 tokens in a word."""
    tokens = jnp.arange(z.shape[-1])
    return jnp.where((q["bits"][:, tokens // 32] >> (tokens % 32)) & 1 != 0, z, -jnp.inf)


def penalised(z: jax.Array, q: Request) -> jax.Array:
    return jnp.where(q["seen"], jnp.where(z > 0, z / 1.3, z * 1.3), z)


def greedy(z: jax.Array) -> jax.Array:
    return jnp.argmax(z, axis=-1)


def sampled(z: jax.Array, q: Request) -> jax.Array:
    return jax.random.categorical(q["key"], z, axis=-1)


TAILS: dict[str, Callable[[jax.Array, Request], Any]] = {
    "mask": lambda z, q: greedy(jnp.where(q["keep"], z, -jnp.inf)),
    "packed mask": lambda z, q: greedy(allowed(z, q)),
    "penalty, bias and softcap": lambda z, q: greedy(30 * jnp.tanh((penalised(z, q) + q["bias"]) / 30)),
    "forbidden tokens": lambda z, q: greedy(z.at[:, q["ids"]].set(-jnp.inf)),
    "temperature and noise": lambda z, q: sampled(z / q["heat"][:, None], q),
    "greedy or sampled": lambda z, q: jnp.where(q["temperature"] < 1e-5, greedy(z), sampled(z / 0.8, q)),
    "padding": lambda z, q: greedy(z[:, : V - 100]),
    "padding, sampled": lambda z, q: sampled(z[:, : V // 8 * 5] / q["heat"][:, None], q),
    "best of a mask": lambda z, q: jax.lax.top_k(jnp.where(q["keep"], z, -1e9), 8)[1],
}
FAST = (("4", "greedy or sampled"), ("2x4", "padding, sampled"), ("8", "packed mask"))


def step_of(name: str) -> Callable[..., Any]:
    return jax.jit(lambda w, x, q: TAILS[name]((x @ w.T).astype(jnp.float32), q))


def near_ties(rng: np.random.Generator) -> np.ndarray:
    """Few different rows, so that many logits are equal or a rounding apart, in all shards."""
    rows = rng.normal(size=(V, D))[rng.integers(0, V // 4, V)].astype(np.float32)
    return np.where(rng.random(rows.shape) < 0.3, np.nextafter(rows, np.float32(np.inf)), rows)


def ties(rng: np.random.Generator) -> np.ndarray:
    return np.round(rng.normal(size=(V, D))[rng.integers(0, V // 4, V)])


def inputs(rng: np.random.Generator, call: int) -> np.ndarray:
    x = rng.normal(size=(BATCH, D)) * rng.choice([0.3, 1.0, 4.0])
    if call % 3 == 1:
        x[0] = (0.0, np.nan, 1e4)[call % 2]
    return np.round(x) if call % 3 == 2 else x


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("mesh", "name"),
    [
        pytest.param(mesh, name, marks=() if (mesh, name) in FAST else pytest.mark.slow)
        for mesh in ("4", "8", "2x4")
        for name in TAILS
    ],
)
def test_the_tokens_are_those_of_dense(rng: np.random.Generator, mesh: str, name: str) -> None:
    devices = mesh_of(mesh)
    dense, fast = step_of(name), hire.transform(step_of(name), STRICT)
    for make in (near_ties, ties, lambda rng: rng.normal(size=(V, D))):
        w = place(devices, np.float32(make(rng)), "model", None)
        for call in range(6):
            x = place(devices, np.float32(inputs(rng, call)), batch_axis(devices))
            q = request(rng, devices)
            np.testing.assert_array_equal(fast(w, x, q), dense(w, x, q))
    (proof,) = fast.report().certificates
    assert 0.2 * proof.rows < proof.proven < proof.rows  # some rows of the hard inputs are in doubt, not all
    # Noise of a cut vocabulary lies in other parts than the weight: it moves, as the cut logits do in dense.
    always = [c for c in talk(fast, w, x, q) if not c.conditional and c.kind != "collective-permute"]
    winners = {"best of a mask": 8, "greedy or sampled": 2}.get(name, 1)
    devices_apart = devices.shape["model"]
    assert sum(c.result_bytes for c in always) <= (12 * devices_apart + 16) * BATCH * winners


# What is interpreted, and how many bytes a batch row costs between the devices: reductions; the winners of every shard,
# 12 bytes each; or, where the code sorts, the candidates, 8 bytes each and 4 for their noise.
ENGINES = {
    "softmax": 128, "softmax, sampled": 192, "min-p": 64, "min-p of probabilities": 144, "a penalty for how often": 112,
    "a bias added at places of each row": 64, "a penalty if any row needs it": 64, "top-k by a sort": 2944,
    "guidance": 64, "top-k by a scatter": 1944, "top-k and top-p, one of the best": 1944, "keras": 2040,
}  # fmt: skip
FAST_ENGINES = (("8", "keras"),)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "name"),
    [
        pytest.param(mesh, name, marks=() if (mesh, name) in FAST_ENGINES else pytest.mark.slow)
        for mesh in ("8", "2x4")
        for name in ENGINES
    ],
)
def test_what_is_interpreted_gives_the_tokens_of_dense(rng: np.random.Generator, mesh: str, name: str) -> None:
    devices = mesh_of(mesh)
    tail = engine_tails.TAILS["top-p of the best of a softmax" if name == "keras" else name]
    dense = jax.jit(lambda w, x, q: tail(x @ w.T, q))
    fast = hire.transform(dense, STRICT)

    def put(array: jax.Array) -> jax.Array:
        spec = (batch_axis(devices), "model") if array.shape == (BATCH, V) else ()
        return jax.device_put(array, jax.NamedSharding(devices, jax.P(*spec)))

    for make in (near_ties, ties, lambda rng: rng.normal(size=(V, D))):
        w = place(devices, np.float32(make(rng)), "model", None)
        for call in range(6):
            x = place(devices, np.float32(inputs(rng, call)), batch_axis(devices))
            q = jax.tree.map(put, engine_tails.request(rng, BATCH, V))
            np.testing.assert_array_equal(fast(w, x, q), dense(w, x, q))
    (proof,) = fast.report().certificates
    assert 0.1 * proof.rows < proof.proven < proof.rows
    always = [c for c in talk(fast, w, x, q) if not c.conditional]
    mixed = x.nbytes if name == "guidance" and batch_axis(devices) else 0  # its rows lie on two devices
    assert sum(c.result_bytes for c in always) <= ENGINES[name] * BATCH + mixed


def test_a_mask_on_an_explicit_mesh_and_logits_that_are_to_be_everywhere(rng: np.random.Generator) -> None:
    mesh = jax.make_mesh((4,), ("model",), (jax.sharding.AxisType.Explicit,), devices=jax.devices()[:4])

    def step(w: jax.Array, x: jax.Array, q: Request) -> jax.Array:
        z = jnp.dot(x, w.T, out_sharding=jax.P(None, "model"))
        z = jax.sharding.reshard(jnp.where(q["keep"], z, -jnp.inf), jax.P())
        return greedy(z)

    with jax.set_mesh(mesh):
        fast = hire.transform(jax.jit(step), STRICT)
        w = place(mesh, np.float32(near_ties(rng)), "model", None)
        for call in range(3):
            x, q = place(mesh, np.float32(inputs(rng, call))), request(rng, mesh)
            np.testing.assert_array_equal(fast(w, x, q), jax.jit(step)(w, x, q))
    assert fast.report().rewritten
