"""What is skipped exactly: explicit and statistical choices of neurons, and neurons proven zero from a bound."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.relu_blocks import BLOCKS, WIDTH, Block, D, plain, scanned, weights, weights_of

K = 24


def kept(h: jax.Array, size: jax.Array) -> jax.Array:
    return jnp.where(size >= jax.lax.top_k(size, K)[0][..., -1:], h, jnp.zeros_like(h))


def above_cut(g: jax.Array) -> jax.Array:
    """The statistical top-k of Gemma 3n."""
    cut = jnp.mean(g, -1, keepdims=True) + 1.6449 * jnp.std(g, -1, keepdims=True)
    return jax.nn.gelu(jax.nn.relu(g - cut))


CHOICES: dict[str, Block] = {
    "statistical, gated": lambda w, x: (above_cut(x @ w["gate"]) * (x @ w["up"] + SHIFT.astype(x.dtype))) @ w["down"],
    "top-k after a relu": lambda w, x: kept(jax.nn.relu(x @ w["up"]), jax.nn.relu(x @ w["up"])) @ w["down"],
    "top-k by size, gated": lambda w, x: (
        (jax.nn.silu(kept(x @ w["gate"], jnp.abs(x @ w["gate"]))) * (x @ w["up"])) @ w["down"]
    ),
}


SHIFT = jnp.where(jnp.arange(WIDTH) % 2, -1.0, 0.734375)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_choice_by_the_gate_is_skipped_exactly_by_default(name: str, dtype: str, batch: int) -> None:
    rng = np.random.default_rng(0)
    w, block = weights(rng, dtype), CHOICES[name]
    step = hire.transform(block)
    for x in (rng.normal(size=(batch, D)), np.ones((batch, D)), np.tile(np.arange(D) % 3 - 1.0, (batch, 1))):
        x = jnp.asarray(x, dtype)
        got, want = (np.asarray(f(w, x), np.float32) for f in (step, jax.jit(block)))
        np.testing.assert_allclose(got, want, rtol=0, atol=(1e-5 if dtype == "float32" else 0.05) * np.abs(want).max())
    (decision,) = step.report().rewritten
    assert decision.predictor == "Exact()"
    assert decision.candidates < WIDTH
    (certificate,) = step.report().certificates
    assert certificate.proven >= batch  # on random inputs it held


def test_more_than_expected_runs_dense() -> None:
    """Two inputs make half of the gate large: a cut by statistics lets a third of all neurons pass."""
    rng = np.random.default_rng(1)
    w = weights(rng)
    w["gate"] = jnp.where(jnp.arange(WIDTH) % 5 == 0, 9.0, 0.0) + 0 * w["gate"]
    block = CHOICES["statistical, gated"]
    step = hire.transform(block)
    x = jnp.abs(drawn(rng.normal(size=(1, D)), jnp.float32))
    np.testing.assert_allclose(step(w, x), jax.jit(block)(w, x), rtol=1e-5)
    (certificate,) = step.report().certificates
    assert (certificate.proven, certificate.rows) == (0, 1)


def test_a_statistical_cut_is_not_predicted() -> None:
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), density=0.5)
    step = hire.transform(CHOICES["statistical, gated"], hire.Config(rules=(rule,)))
    with pytest.raises(hire.ConfigError, match=r"numbers of all neurons.*Exact\(\)"):
        step(weights(np.random.default_rng(2)), jnp.ones((1, D)))


# --------------------------------------------------------------------------- neurons proven zero


def certified(block: Block, density: float = 0.4, group: int = 1) -> hire.HireFunction:
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify=True, density=density, group=group)
    return hire.transform(jax.jit(block), hire.Config(rules=(rule,)))


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("bias", "fits"), [(-1.5, True), (1.0, False)], ids=["few active", "most active"])
def test_proven_zeros_are_skipped_and_the_block_equals_dense(block: Block, dtype: str, bias: float, fits: bool) -> None:
    rng = np.random.default_rng(3)
    w = weights_of(block, rng, dtype, bias)
    step = certified(block)
    for batch in (1, 1, 2):
        x = drawn(rng.normal(size=(batch, D)), dtype)
        got, want = (np.asarray(f(w, x), np.float32) for f in (step, jax.jit(block)))
        np.testing.assert_allclose(
            got, want, rtol=0, atol=64 * float(jnp.finfo(dtype).eps) * max(np.abs(want).max(), 0.1)
        )
    if block is not scanned:
        (certificate,) = step.report().certificates
        assert (certificate.proven == certificate.rows) == fits
    assert step.report().rewritten[0].exactness.startswith("certified")


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-25, 1e-13, 1e13, 1e25, np.inf, np.nan])
@pytest.mark.parametrize("where", ["input", "weights"])
def test_unusual_sizes_are_never_wrong(size: float, where: str) -> None:
    rng = np.random.default_rng(4)
    w = weights(rng, bias=-1e-30)
    x = drawn(rng.normal(size=(1, D)), jnp.float32)
    if where == "input":
        x = x * jnp.float32(size)
    else:
        w["up"] = w["up"] * jnp.where(jnp.arange(WIDTH) % 2, jnp.float32(size), 1.0)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify=True, density=0.9, group=1)
    step = hire.transform(jax.jit(plain), hire.Config(rules=(rule,), check_weights=False))
    got, want = np.asarray(step(w, x)), np.asarray(jax.jit(plain)(w, x))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    scale = np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(got[np.isfinite(want)], want[np.isfinite(want)], rtol=0, atol=1e-5 * scale)


def test_what_cannot_be_proven_is_an_error() -> None:
    w, x = weights(np.random.default_rng(5)), jnp.ones((1, D))
    with pytest.raises(hire.ConfigError, match="proves silu to be zero"):
        certified(lambda w, x: jax.nn.silu(x @ w["up"]) @ w["down"])(w, x)
    with pytest.raises(hire.ConfigError, match="only a head has"):
        hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify="strict", density=0.5)
    with pytest.raises(hire.ConfigError, match="too wide to prove"):
        hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), certify=True, density=0.5)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("predictor", "certify"),
    [
        (hire.Exact(), False),
        (hire.Quantized(bits=8), False),
        (hire.Quantized(bits=8), True),
        (hire.LowRank(rank=4), False),
    ],
    ids=["exact", "int8", "certified", "low rank"],
)
@pytest.mark.parametrize("zero", ["up", "down", "both"])
def test_weights_of_zeros_give_what_dense_gives(predictor: hire.Exact, certify: bool, zero: str) -> None:
    w, x = weights(np.random.default_rng(8)), jnp.ones((1, D))
    w |= {name: 0 * w[name] for name in ("up", "down") if zero in (name, "both")}
    rule = hire.Rule(kind="ffn", predictor=predictor, certify=certify, density=0.25, group=1)
    step = hire.transform(jax.jit(plain), hire.Config(rules=(rule,)))
    np.testing.assert_array_equal(step(w, x), np.zeros((1, D)))
    assert step.report().rewritten


ROWS = 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "near ties", "huge norms", "denormals", "overflow"])
def test_a_million_rows_hold_no_mismatch(kind: str) -> None:
    """Certified against dense, batch 1 each, a fifth of a million rows of every kind of adversary."""
    rng = np.random.default_rng(6)
    d, width, rows = 16, 64, ROWS // 5
    gate = rng.normal(size=(width, d))
    xs = rng.normal(size=(rows, d))
    if kind == "near ties":  # products that are zero but for a few roundings, of either sign
        gate[1::2] = -gate[::2] * (1 + rng.choice([0, 1e-7, -1e-7], size=(width // 2, 1)))
        xs -= (xs @ gate[0])[:, None] * gate[0] / (gate[0] @ gate[0])
    if kind == "huge norms":
        gate *= 10.0 ** rng.integers(-8, 9, (width, 1))
        xs *= 10.0 ** rng.integers(-8, 9, (rows, 1))
    if kind == "denormals":
        gate *= 10.0 ** rng.integers(-38, 1, (width, 1))
        xs *= 10.0 ** rng.integers(-38, 1, (rows, 1))
    if kind == "overflow":
        gate *= 10.0 ** rng.integers(0, 38, (width, 1))
        xs *= 10.0 ** rng.integers(0, 38, (rows, 1))
    w = {"up": jnp.asarray(gate.T, jnp.float32), "down": random_matrix(rng, width, d), "bias": jnp.zeros(width)}
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify=True, density=0.75, group=1)
    step = hire.transform(jax.jit(plain), hire.Config(rules=(rule,), check_weights=False))
    x = jnp.asarray(xs, jnp.float32)
    prepared = step.prepare(w, x[:1])
    run = jax.jit(lambda w, x, q: jax.lax.map(lambda row: step(w, row[None], prepared=q)[0], x))
    dense = jax.jit(lambda w, x: jax.lax.map(lambda row: plain(w, row[None])[0], x))
    got, want = np.asarray(run(w, x, prepared), np.float64), np.asarray(dense(w, x), np.float64)
    for row in range(20):
        step(w, x[row : row + 1])
    (certificate,) = step.report().certificates
    assert certificate.proven > 0 or kind in ("denormals", "overflow")  # there nothing need be proven
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    finite = np.isfinite(want)
    # τ: the sum of the second product, in another order.
    hidden = np.maximum(xs.astype(np.float32).astype(np.float64) @ np.asarray(w["up"], np.float64), 0)
    tau = 2 * width * 2.0**-23 * (hidden + 1e-30) @ np.abs(np.asarray(w["down"], np.float64))
    slack = tau + 2 * d * 2.0**-23 * np.linalg.norm(xs, axis=1, keepdims=True) * np.linalg.norm(gate, axis=1).max()
    assert (np.abs(got[finite] - want[finite]) <= np.where(kind == "near ties", slack, tau)[finite]).all()


def random_matrix(rng: np.random.Generator, *shape: int) -> jax.Array:
    return drawn(rng.normal(size=shape), jnp.float32)
