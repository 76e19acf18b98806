"""Heads behind samplers as engines write them: rewritten, and the tokens are those of dense, in ties and doubt too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.engine_tails import TAILS, Request, greedy, request, sampled
from tests.support.hard_rows import STRICT, D, V, gaussian, inputs, near_ties, ties

FAST = ("a bias added at some places",)
SELDOM_PROVEN = (
    "top-k by halving", "top-k and top-p by halving",  # the value at the cut is not told from itself
    "guidance of log-probabilities, sampled",  # the normalisers of several rows are only known between bounds
)  # fmt: skip


def step_of(name: str) -> Callable[..., Any]:
    return jax.jit(lambda w, x, q: TAILS[name]((x @ w.T).astype(jnp.float32), q))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in TAILS])
def test_the_tokens_are_those_of_dense(name: str, rng: np.random.Generator) -> None:
    for batch, dtype in ((4, "float32"), (1, "float32"), (3, "bfloat16"))[: 1 if name in FAST else 3]:
        dense, fast = step_of(name), hire.transform(step_of(name), STRICT)
        for make in (near_ties, ties, gaussian):
            w = jnp.asarray(make(rng), dtype)
            for call in range(12):
                x, q = inputs(rng, batch, call, dtype), request(rng, batch, V)
                jax.tree.map(np.testing.assert_array_equal, fast(w, x, q), dense(w, x, q))
        assert len(fast.report().rewritten) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TAILS if n not in SELDOM_PROVEN])
def test_the_proof_holds_for_nearly_all_rows(name: str, rng: np.random.Generator) -> None:
    fast = hire.transform(step_of(name), STRICT)
    w = jnp.asarray(gaussian(rng), jnp.float32)
    for _ in range(25):
        fast(w, drawn(rng.normal(size=(4, D)) * 0.5, jnp.float32), request(rng, 4, V))
    (certificate,) = fast.report().certificates
    assert certificate.proven >= 0.85 * certificate.rows


@pytest.mark.slow
def test_the_default_rewrites_a_sampler(rng: np.random.Generator) -> None:
    rows, d = 32768, 64
    fast = hire.transform(lambda w, x, q: TAILS["top-k, greedy"](x @ w.T, q))
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((rows, d), (1, d)))
    q = request(rng, 1, rows)
    assert fast(w, x, q) == TAILS["top-k, greedy"](x @ w.T, q)
    assert len(fast.report().rewritten) == 1


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("top-p", "a running sum over the whole vocabulary"),
        ("guidance of log-probabilities, sampled", "a mixture of probabilities of different batch rows"),
        ("top-k and top-p by halving", "a threshold that a loop over the vocabulary finds"),
    ],
)
def test_what_is_seldom_proven_waits_for_a_rule(name: str, why: str, rng: np.random.Generator) -> None:
    fast = hire.transform(step_of(name))
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((4096, D), (2, D)))
    fast(w, x, request(rng, 2, 4096))
    (decision,) = fast.report().decisions
    assert decision.action == "dense"
    assert why in decision.reason


@pytest.mark.slow
def test_a_sum_over_what_a_rank_left_is_proven_by_default(rng: np.random.Generator) -> None:
    fast = hire.transform(step_of("top-k by top_k, top-p by a sort"))
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((4096, D), (1, D)))
    q = request(rng, 1, 4096)
    np.testing.assert_array_equal(fast(w, x, q), step_of("top-k by top_k, top-p by a sort")(w, x, q))
    assert fast.report().certificates[0].proven == 1


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (lambda z: (jnp.argmax(z, -1), z), r"whole vocabulary as [1]"),
        (lambda z: (jnp.argmax(z, -1), jax.nn.logsumexp(z, axis=-1)), r"is returned as [1]"),
        (lambda z: (jnp.argmax(z, -1), jax.lax.top_k(jax.nn.log_softmax(z), 5)), r"(chlo.top_k) is returned as [1][0]"),
        (lambda z: jnp.argmax(z.at[:, :3].apply(jnp.sin), -1), "scatter that does more than"),
        (lambda z: jax.lax.top_k(z, V)[1][:, 7], "few can be left out"),
    ],
)
def test_what_blocks_a_proof_is_named(output: Callable[..., Any], named: str) -> None:
    fast = hire.transform(lambda w, x: output(x @ w.T))
    fast(jnp.ones((V, D)), jnp.ones((2, D)))
    (decision,) = fast.report().decisions
    assert named in decision.reason


@pytest.mark.slow
@pytest.mark.parametrize("everyone_greedy", [False, True])
def test_a_branch_that_draws_noise_is_rewritten_by_default(everyone_greedy: bool, rng: np.random.Generator) -> None:
    def step(w: jax.Array, x: jax.Array, q: Request) -> jax.Array:
        return jax.lax.cond(q["greedy"], greedy, lambda z: sampled(z / 0.8, q), x @ w.T)

    rows, d = 32768, 64
    fast = hire.transform(step)
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((rows, d), (1, d)))
    q = {"greedy": jnp.asarray(everyone_greedy), "key": jax.random.key(5)}
    np.testing.assert_array_equal(fast(w, x, q), jax.jit(step)(w, x, q))
    assert len(fast.report().rewritten) == 1
    assert fast.report().certificates[0].proven == 1
