"""``Rule(logprobs="bounded")``: the token is dense's; its log-probability is no farther off than the report says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

V, D, BATCH = 1024, 32, 3


def bounded(**options: Any) -> hire.Config:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify="strict", **options)
    return hire.Config(rules=(rule,))


def chosen(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The token and its log-probability."""
    z = x @ w.T
    token = jnp.argmax(z, axis=-1)
    return token, jnp.take_along_axis(jax.nn.log_softmax(z, axis=-1), token[:, None], axis=-1)[:, 0]


def weights(rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    return drawn(rng.normal(size=(V, D)) / 6, jnp.float32), drawn(rng.normal(size=(BATCH, D)), jnp.float32)


@pytest.mark.slow
def test_a_log_probability_is_no_farther_off_than_the_report_says(rng: np.random.Generator) -> None:
    fast = hire.transform(chosen, bounded(logprobs="bounded"))
    w, x = weights(rng)
    for scale in (0.0, 0.1, 1.0, 4.0, 30.0):
        (token, number), logits = fast(w, x * scale), np.asarray(x * scale, np.float64) @ np.asarray(w, np.float64).T
        np.testing.assert_array_equal(token, jax.jit(chosen)(w, x * scale)[0])
        best = logits.max(axis=-1)
        true = -np.log(np.exp(logits - best[:, None]).sum(axis=-1))
        (proof,) = fast.report().certificates
        assert np.abs(number - true).max() <= proof.slack + 1e-6
    assert proof.proven >= 4 * BATCH  # ties of a zero input run as written
    assert 1e-4 < proof.slack < 0.1
    assert "off by τ at most" in str(fast.report())


@pytest.mark.slow
def test_the_best_log_probabilities_are_bounded_and_their_tokens_proven(rng: np.random.Generator) -> None:
    def best(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.top_k(jax.nn.log_softmax(x @ w.T, axis=-1), 5)

    fast, dense = hire.transform(best, bounded(logprobs="bounded")), jax.jit(best)
    w, x = weights(rng)
    for scale in (0.0, 1.0, 4.0):
        numbers, tokens = fast(w, x * scale)
        np.testing.assert_array_equal(tokens, dense(w, x * scale)[1])
        logits = np.asarray(x * scale, np.float64) @ np.asarray(w, np.float64).T
        true = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        (proof,) = fast.report().certificates
        assert np.abs(numbers - np.take_along_axis(true, np.asarray(tokens), axis=-1)).max() <= proof.slack + 1e-6
    assert proof.proven >= BATCH
    assert proof.slack < 0.1


def test_without_it_the_number_keeps_the_head_dense(rng: np.random.Generator) -> None:
    w, x = weights(rng)
    fast = hire.transform(chosen)
    fast(w, x)
    assert "is returned as [1]" in fast.report().decisions[0].reason
    with pytest.raises(hire.ConfigError, match=r"is returned as \[1\]"):
        hire.transform(chosen, bounded())(w, x)


def test_a_number_that_is_read_on_is_not_bounded(rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        token, number = chosen(w, x)
        return token, jnp.where(jax.lax.while_loop(lambda n: (n < -1).any(), lambda n: n / 2, number) < 0, 1, 0)

    with pytest.raises(hire.ConfigError, match="certify='strict' is impossible"):
        hire.transform(step, bounded(logprobs="bounded"))(*weights(rng))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"logprobs": "some"}, "must be 'dense' or 'bounded'"), ({"logprobs": "bounded", "certify": False}, "needs cert")],
)
def test_what_cannot_be_asked_for_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(hire.ConfigError, match=said):
        hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, **options)
