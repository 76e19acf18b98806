"""A token out of a list that a request names: its logits are gathered, and the best of them is looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.engine_tails import best_of, guided, min_p_of_shares, penalised_at, request, rows_of, sampled

V, D, N = 2048, 24, 300
IDS = np.arange(0, 7 * N, 7) % V
STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=192, certify="strict"),)
)


def picked(z: jax.Array, q: dict[str, Any]) -> jax.Array:
    return jnp.take_along_axis(z, q["own"], axis=-1)


def named(q: dict[str, Any], at: jax.Array) -> jax.Array:
    return jnp.take_along_axis(q["own"], at[:, None], axis=-1)[:, 0]


FORMS: dict[str, Callable[[jax.Array, dict[str, Any]], Any]] = {
    "one for all": lambda z, q: q["list"][jnp.argmax(z[:, q["list"]], -1)],
    "one of each row, some tokens twice": lambda z, q: named(q, sampled(picked(z, q) / 0.8, q)),
    "of rows that are counted": lambda z, q: jnp.argmax(z[rows_of(z), q["own"]], -1),
    "the first few of each": lambda z, q: jnp.argmax(
        jnp.where(jnp.arange(N) < q["k"][:, None], picked(z, q), -jnp.inf), -1
    ),
    "a few": lambda z, q: jnp.argmax(z[:, q["list"][:3]], -1),
    "the best four": lambda z, q: jax.lax.top_k(jnp.take(z, q["list"], axis=1), 4)[1],
    "turned about": lambda z, q: jnp.argmax(z[:, ::-1].T[q["list"]], 0),
    "of a part": lambda z, q: jnp.argmax(z[:, 50:1400][:, q["list"] % 1350], -1),
    "out of range": lambda z, q: jnp.argmax(jnp.take(z, q["list"] + 40, 1, mode="fill", fill_value=-jnp.inf), -1),
    "top-k among them": lambda z, q: sampled(best_of(z[:, q["list"]], 10), q),
    "min-p among them": lambda z, q: sampled(min_p_of_shares(z[:, q["list"]], q), q),
    "behind a penalty": lambda z, q: jnp.argmax(penalised_at(z, q)[:, q["list"]], -1),
    "behind guidance": lambda z, q: jnp.argmax(guided(z)[:, q["list"]], -1),
    "written twice": lambda z, q: jnp.argmax(
        jnp.where(z[:, IDS] < jnp.max(z[:, IDS], -1, keepdims=True) - 1, -jnp.inf, z[:, IDS]) + q["noise"], -1
    ),
    "of two values": lambda z, q: jnp.argmax(
        jnp.where(jax.nn.log_softmax(z)[:, q["list"]] < -9, -jnp.inf, (z / 0.7)[:, q["list"]]) + q["noise"], -1
    ),
    "guided behind the list": lambda z, q: jnp.argmax(guided(z[:, q["list"]]), -1),
    "beside all": lambda z, q: (jnp.argmax(z[:, q["list"]], -1), jnp.argmax(z, -1)),
    "of each row by itself": lambda z, q: jax.vmap(lambda row, own: own[jnp.argmax(row[own])])(z, q["own"]),
}
FAST = ("one of each row, some tokens twice",)


def asked(rng: np.random.Generator, batch: int) -> dict[str, Any]:
    lists = {"list": rng.choice(V, N, replace=False), "own": rng.integers(0, V, (batch, N))}
    noise = drawn(rng.gumbel(size=(batch, N)))
    return {
        **request(rng, batch, V),
        "noise": noise,
        **{name: jnp.asarray(ids, jnp.int32) for name, ids in lists.items()},
    }


def weights(rng: np.random.Generator) -> list[np.ndarray]:
    rows = np.float32(rng.normal(size=(V // 4, D)))[rng.integers(0, V // 4, V)]
    near = np.where(rng.random(rows.shape) < 0.3, np.nextafter(rows, np.float32(np.inf)), rows)
    return [rng.normal(size=(V, D)), near, np.round(rows)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in FORMS])
def test_the_tokens_are_those_of_dense(name: str, rng: np.random.Generator) -> None:
    for batch, dtype in ((4, "float32"), (1, "float32"), (2, "bfloat16"))[: 1 if name in FAST else 3]:
        dense = jax.jit(lambda w, x, q: FORMS[name]((x @ w.T).astype(jnp.float32), q))
        fast = hire.transform(dense, STRICT)
        for rows in weights(rng):
            w = drawn(rows, dtype)
            for call in range(4):
                x = rng.normal(size=(batch, D)) * (0.3, 1.0, 4.0)[call % 3]
                x[0] = np.round(x[0]) if call == 2 else np.nan if call == 3 else x[0]
                arguments = w, drawn(x, dtype), asked(rng, batch)
                jax.tree.map(np.testing.assert_array_equal, fast(*arguments), dense(*arguments))
        assert len(fast.report().rewritten) == 1
        assert fast.report().certificates[0].proven > 0


@pytest.mark.slow
def test_tokens_that_are_far_apart_are_proven(rng: np.random.Generator) -> None:
    fast = hire.transform(lambda w, x, q: FORMS["one for all"](x @ w.T, q), STRICT)
    w = drawn(rng.normal(size=(V, D)))
    for _ in range(10):
        fast(w, drawn(rng.normal(size=(3, D))), asked(rng, 3))
    assert fast.report().certificates[0].proven == fast.report().certificates[0].rows == 30


def reason_of(form: Callable[[jax.Array, jax.Array, jax.Array], Any], config: hire.Config | None = None) -> str:
    shapes = jnp.ones((2 * V, D)), jnp.ones((4, D)), jnp.zeros((4, N), jnp.int32), jnp.zeros(4, jnp.int32)
    step = hire.transform(lambda w, x, ids, rows: jnp.argmax(form(x @ w.T, ids, rows), -1), config)
    (decision,) = step.report(*shapes).decisions
    return decision.reason


@pytest.mark.parametrize(
    ("form", "in_order"),
    [
        (lambda z, ids, rows: z[jnp.arange(4)[:, None], ids], True),
        (lambda z, ids, rows: z[np.arange(4)[:, None], ids], True),
        (lambda z, ids, rows: z[3 - jnp.arange(3, -1, -1)[:, None], ids], True),
        (lambda z, ids, rows: z[rows[:, None], ids], False),
        (lambda z, ids, rows: z[np.array([2, 0, 1, 3])[:, None], ids], False),
    ],
)
def test_rows_in_another_order_wait_for_a_rule(form: Callable[..., Any], in_order: bool) -> None:
    assert ("batch rows in another order" in reason_of(form)) != in_order


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (lambda z, ids, rows: z[:, ids[0]] + z[:, ids[1]], "add of logits of different lists of tokens"),
        (lambda z, ids, rows: z[:, ids[0]].reshape(2, -1), "reshape that joins beams of a list of tokens"),
        (lambda z, ids, rows: z[:, 9:3000] + z[:, 10:3001], "add of logits of different parts of the vocabulary"),
    ],
)
def test_columns_that_are_not_followed_are_named(form: Callable[..., Any], why: str) -> None:
    assert why in reason_of(form)


def test_entries_that_are_only_read_are_no_list(rng: np.random.Generator) -> None:
    report = hire.transform(lambda w, x, ids: (x @ w.T)[:, ids]).report(
        jnp.ones((V, D)), jnp.ones((1, D)), jnp.arange(N)
    )
    assert "only some of its results are read (gather)" in report.misses[0].reason
