"""Certificates piece by piece: the bounds, the proof of winners, the dense branch for the rows of a batch that fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.passes.plan.predictor_bytes import BLOCK as COUNTED_BLOCK
from hire_compiler.runtime.certify import (
    BLOCK,
    best_candidates,
    between,
    excluded_that_reach,
    finer_room,
    prepare_bound,
    room,
    rounded_terms,
)
from hire_compiler.runtime.predictors import predict
from hire_compiler.runtime.quantized import prepare_quantized
from hire_compiler.runtime.repair import repair
from hire_compiler.runtime.target import store, target_for
from tests.support.drawn import drawn
from tests.support.models import array, said

CPU = target_for("cpu")
N, D = 2048, 80


def wide(array: Any) -> np.ndarray:
    return np.asarray(jnp.asarray(array).astype(jnp.float32), np.float64)


# --------------------------------------------------------------------------- bounds


WEIGHTS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "gaussian": lambda rng: rng.normal(size=(N, D)),
    "columns of very different size": lambda rng: rng.normal(size=(N, D)) * np.geomspace(1, 1e-4, D),
    "spikes": lambda rng: rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.05),
    "huge and tiny rows": lambda rng: rng.normal(size=(N, D)) * np.exp(rng.normal(size=(N, 1)) * 9),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_every_logit_lies_below_its_bounds(name: str, dtype: str, rng: np.random.Generator) -> None:
    rows = jnp.asarray(WEIGHTS[name](rng), dtype)
    made = prepare_quantized(rows)
    bounds = {key: store(value, CPU) for key, value in prepare_bound(rows, made).items()}
    x = array(rng, 3, D) * jnp.asarray(np.geomspace(1, 1e-3, D), jnp.float32)
    scores, exact = predict(x, made, CPU), wide(x) @ wide(rows).T
    plain, finer = scores + room(bounds, x), scores + finer_room(bounds, x, CPU)
    assert (exact <= wide(plain)).all()
    assert (exact <= wide(finer)).all()
    assert (finer <= plain).all()
    assert BLOCK == COUNTED_BLOCK


@pytest.mark.slow
def test_blocks_of_columns_tighten_the_bound_where_the_input_is_uneven(rng: np.random.Generator) -> None:
    rows, x = array(rng, N, D), array(rng, 2, D).at[:, BLOCK:].multiply(0.01)
    made = prepare_quantized(rows)
    bounds = prepare_bound(rows, made)
    assert float(jnp.median(finer_room(bounds, x, CPU) / room(bounds, x))) < 0.8


@pytest.mark.slow
def test_a_product_of_one_row_whose_terms_are_rounded_lies_between_its_bounds(rng: np.random.Generator) -> None:
    """As a GPU multiplies a row in bfloat16: each term rounded, then summed in float32."""
    gpu = target_for("gpu")
    rows = drawn(rng.normal(size=(N, 1)) * np.ones(D) + rng.normal(size=(N, D)) * 1e-3, jnp.bfloat16)
    x = array(rng, 1, D).astype(jnp.bfloat16)
    x = x - jnp.mean(x.astype(jnp.float32)).astype(x.dtype)  # so that terms cancel
    terms = rounded_terms(1, "bfloat16", gpu)
    assert terms > 0
    assert rounded_terms(2, "bfloat16", gpu) == rounded_terms(1, "float32", gpu) == 0
    assert rounded_terms(1, "bfloat16", CPU) == 0

    dense = np.asarray((rows * x).astype(jnp.bfloat16).astype(jnp.float32), np.float64).sum(1)
    made = prepare_quantized(rows)
    bounds, scores = prepare_bound(rows, made), predict(x, made, CPU)[0]
    for extra, holds in ((terms, True), (0.0, False)):
        for away in (room(bounds, x, extra), finer_room(bounds, x, CPU, extra)):
            assert (np.abs(dense - wide(scores)) <= wide(away[0])).all() == holds
        apart = wide(between(bounds["norm"][None], x, extra)[0])
        assert (np.abs(dense - wide(rows) @ wide(x)[0]) <= apart).all() == holds


# --------------------------------------------------------------------------- winners


def proof(logits: list[float], upper: list[float], ids: list[int], k: int, slack: float, strict: bool) -> bool:
    """Whether the best k of the candidates ``ids`` are proven; ``upper`` bounds all logits."""
    exact = jnp.asarray([[logits[i] for i in ids]], jnp.float32)
    where = jnp.asarray([ids], jnp.int32)
    best = best_candidates(exact, exact - slack, exact + slack, where, k, strict=strict)
    excluded = excluded_that_reach(jnp.asarray([upper], jnp.float32), where, best)
    return bool(best.sure[0] & (excluded[0] == 0))


@pytest.mark.parametrize(
    ("what", "logits", "upper", "ids", "slack", "proven", "strictly"),
    [
        ("all others are lower", [3, 9, 5, 1], [4, 10, 6, 2], [1, 2], 0.1, True, True),
        ("an excluded row may be higher", [3, 9, 5, 1], [9.5, 10, 6, 2], [1, 2], 0.1, False, False),
        ("the second candidate is too close for strict", [3, 9, 8.9, 1], [4, 10, 9, 2], [1, 2], 0.1, True, False),
        ("an excluded row ties, and its index is lower", [9, 9, 5, 1], [9, 10, 6, 2], [1, 2], 0.0, False, False),
        ("an excluded row ties, and its index is higher", [3, 9, 5, 9], [4, 10, 6, 9], [1, 2], 0.0, True, True),
        ("two candidates tie, which dense would too", [3, 9, 9, 1], [4, 10, 10, 2], [1, 2], 0.0, True, True),
        ("a candidate is infinite", [3, np.inf, 5, 1], [4, np.inf, 6, 2], [1, 2], 0.0, False, False),
        ("a candidate is not a number", [3, np.nan, 5, 1], [4, 10, 6, 2], [1, 2], 0.0, False, False),
    ],
)
def test_one_winner_is_proven_when(
    what: str, logits: list[float], upper: list[float], ids: list[int], slack: float, proven: bool, strictly: bool
) -> None:
    assert proof(logits, upper, ids, 1, slack, strict=False) == proven
    assert proof(logits, upper, ids, 1, slack, strict=True) == strictly


def test_strict_top_k_needs_the_order_of_the_winners_too() -> None:
    logits, upper = [9.0, 8.95, 5.0, 1.0], [9.1, 9.1, 5.1, 1.1]
    assert proof(logits, upper, [0, 1, 2], 2, 0.1, strict=False)
    assert not proof(logits, upper, [0, 1, 2], 2, 0.1, strict=True)
    assert proof([9.0, 8.0, 5.0, 1.0], upper, [0, 1, 2], 2, 0.1, strict=True)


# --------------------------------------------------------------------------- the dense branch


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_only_failed_rows_are_done_again_one_by_one(batch: int, rng: np.random.Generator) -> None:
    done: list[int] = []

    def run(proven: jax.Array) -> jax.Array:
        def one(at: jax.Array) -> tuple[list[jax.Array], jax.Array]:
            jax.debug.callback(lambda at: done.append(int(at)), at)
            return [100 + at[None]], jnp.ones((), bool)

        def whole() -> list[jax.Array]:
            jax.debug.callback(lambda: done.append(-batch))
            return [100 + jnp.arange(batch, dtype=jnp.int32)]

        return repair([jnp.arange(batch)], proven, jnp.zeros(batch, bool), one, whole, 8)[0]

    compiled = jax.jit(run)
    for failed in range(batch + 1):
        proven = np.ones(batch, bool)
        proven[rng.permutation(batch)[:failed]] = False
        done.clear()
        got = np.asarray(compiled(jnp.asarray(proven)))
        jax.effects_barrier()
        assert sorted(done) == (list(np.flatnonzero(~proven)) if failed <= 8 else [-batch])
        redone = np.ones(batch, bool) if failed > 8 else ~proven
        np.testing.assert_array_equal(got, np.arange(batch) + 100 * redone)


def test_dense_rows_behind_a_bias_keep_their_product_apart(rng: np.random.Generator) -> None:
    """XLA:CPU would fuse the product of a single row with the bias, at a hundredth of its speed."""
    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=64, certify=True)
    step = hire.transform(lambda x, w, b: jnp.argmax(x @ w.T + b, axis=-1), hire.Config(rules=(rule,)))
    text = step.lower(array(rng, 4, D), array(rng, N, D), array(rng, N)).as_text()
    kept_apart = re.findall(r"(%\d+) = stablehlo.dot_general.*\n.*optimization_barrier \1", text)
    assert len(kept_apart) == 1, "the branch for one row"


@pytest.mark.parametrize("most", [0, 8])
@pytest.mark.parametrize("hopeless", [False, True])
def test_a_row_that_cannot_be_settled_by_itself_takes_the_whole_batch(hopeless: bool, most: int) -> None:
    proven, lost = jnp.asarray([True, False, True]), jnp.asarray([False, hopeless, False])
    one = lambda at: ([jnp.full(1, 1)], jnp.zeros((), bool))  # noqa: E731
    (got,) = repair([jnp.zeros(3, jnp.int32)], proven, lost, one, lambda: [jnp.full(3, 7)], most)
    np.testing.assert_array_equal(got, [7, 7, 7])


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, "strict"])
@pytest.mark.parametrize("top", [1, 3])
def test_one_bad_row_of_a_batch_gets_the_answer_of_dense(strict: Any, top: int, rng: np.random.Generator) -> None:
    """Rows of one sign: row 1 of the batch likes ten thousand rows alike, which no bound can tell apart."""
    embed = wide(array(rng, N, D))
    embed[: N // 2] = embed[0] + 1e-3 * rng.normal(size=(N // 2, D))
    embed = jnp.asarray(embed, jnp.float32)
    x = array(rng, 8, D).at[1].set(embed[0])

    def head(x: jax.Array, embed: jax.Array) -> Any:
        logits = x @ embed.T
        return jnp.argmax(logits, axis=-1) if top == 1 else jax.lax.top_k(logits, top)[1]

    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=32, certify=strict)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    np.testing.assert_array_equal(step(x, embed), jax.jit(head)(x, embed))
    (certificate,) = step.report().certificates
    assert (certificate.rows, certificate.proven) == (8, 7)
    logits = wide(x) @ wide(embed).T
    error = np.abs(np.asarray(x @ embed.T, np.float64) - logits).max()
    assert error < certificate.slack < 0.01
    assert f"slack τ ≤ {certificate.slack:.2g}" in said(step.report())


@pytest.mark.slow
def test_the_slack_of_bfloat16_logits_includes_their_storage(rng: np.random.Generator) -> None:
    embed, x = array(rng, N, D, dtype="bfloat16"), array(rng, 4, D, dtype="bfloat16")
    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=64, certify=True)
    step = hire.transform(lambda x, w: jax.lax.top_k(x @ w.T, 8), hire.Config(rules=(rule,)))
    _, ids = step(x, embed)
    (certificate,) = step.report().certificates
    logits = wide(x) @ wide(embed).T
    assert certificate.proven == 4  # ranked in float32, so ties of rounded logits do no harm
    assert 2**-8 * logits.max() <= certificate.slack < 2**-6 * logits.max()
    kept = np.sort(np.take_along_axis(logits, np.asarray(ids), axis=1), axis=1)[:, 0]
    assert (np.sort(logits, axis=1)[:, -8] - kept <= certificate.slack).all()


@pytest.mark.slow
def test_strict_bfloat16_is_proven_through_ties_of_rounded_logits(rng: np.random.Generator) -> None:
    """Half of these rows tie with the best one after rounding; dense takes the lowest index, and so must we."""
    embed, x = array(rng, N, D, dtype="bfloat16"), array(rng, 24, D, dtype="bfloat16")
    embed = embed.at[1::2].set(embed[::2])
    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=64, certify="strict", max_batch=64)
    head = lambda x, w: jnp.argmax(x @ w.T, axis=-1)  # noqa: E731
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    np.testing.assert_array_equal(step(x, embed), jax.jit(head)(x, embed))
    (certificate,) = step.report().certificates
    assert certificate.proven > 15


# --------------------------------------------------------------------------- sampling


@pytest.mark.slow
def test_gumbel_max_sampling_is_certified_and_draws_what_dense_draws(rng: np.random.Generator) -> None:
    embed = array(rng, N, D)

    def sample(embed: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, x @ embed.T / 0.7)

    step = hire.transform(jax.jit(sample))
    draws = []
    for i in range(40):
        x = array(rng, 2, D) / 8
        draws.append(np.asarray(step(embed, x, jax.random.key(i))))
        np.testing.assert_array_equal(draws[-1], jax.jit(sample)(embed, x, jax.random.key(i)))
    assert len(np.unique(draws)) > 30
    (decision,) = step.report().decisions
    assert decision.exactness.startswith("certified")
    (certificate,) = step.report().certificates
    assert certificate.proven >= 72


def test_the_noise_takes_part_in_choosing_candidates(rng: np.random.Generator) -> None:
    """Sampling at high temperature: the winner is often far from the largest logits."""
    embed, x = array(rng, N, D), array(rng, 3, D) / 20

    def sample(x: jax.Array, embed: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.argmax(x @ embed.T + noise**3, axis=-1)

    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=8)
    step = hire.transform(jax.jit(sample), hire.Config(rules=(rule,)))
    for _ in range(5):
        noise = array(rng, 3, N)
        np.testing.assert_array_equal(step(x, embed, noise), np.argmax(wide(x) @ wide(embed).T + wide(noise) ** 3, 1))
    assert step.report().rewritten


# --------------------------------------------------------------------------- prefill


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("cut", [lambda z: z[:, -1], lambda z: z[:, -1:], lambda z: z[:, -1, :].astype(jnp.float32)])
@pytest.mark.parametrize("read", ["argmax", "top_k", "logits", "softmax"])
def test_of_a_prompt_only_the_last_position_is_scored(cut: Any, read: str, rng: np.random.Generator) -> None:
    embed, x = array(rng, N, D), array(rng, 2, 40, D)
    readers = {
        "argmax": lambda z: jnp.argmax(z, axis=-1),
        "top_k": lambda z: jax.lax.top_k(z, 4)[1],
        "logits": lambda z: z,
        "softmax": lambda z: jax.nn.softmax(z, axis=-1),
    }
    prefill = lambda x, w: readers[read](cut(x @ w.T))  # noqa: E731
    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=64)
    step = hire.transform(jax.jit(prefill), hire.Config(rules=(rule,)))
    got = step(x, embed)
    (site,) = step.report().sites
    assert site.batch == 2
    assert step.report().rewritten
    wanted = jax.jit(prefill)(x, embed)
    assert got.shape == wanted.shape
    if read in ("argmax", "top_k"):
        np.testing.assert_array_equal(got, wanted)
    else:
        np.testing.assert_allclose(got, wanted, atol=0.6 if read == "logits" else 5e-2)
        best = np.argsort(-wide(wanted), axis=-1)[..., :8]
        np.testing.assert_allclose(
            np.take_along_axis(wide(got), best, -1), np.take_along_axis(wide(wanted), best, -1), rtol=2e-2
        )


@pytest.mark.slow
def test_a_certified_prefill_is_strictly_that_of_dense(rng: np.random.Generator) -> None:
    embed = array(rng, N, D)
    prefill = lambda x, w: jnp.argmax((x @ w.T)[:, -1], axis=-1)  # noqa: E731
    step = hire.transform(jax.jit(prefill))
    for _ in range(20):
        x = array(rng, 2, 40, D)
        np.testing.assert_array_equal(step(x, embed), jax.jit(prefill)(x, embed))
    (certificate,) = step.report().certificates
    assert certificate.rows == 40
    assert certificate.proven > 36


# --------------------------------------------------------------------------- refusals and reports


def test_a_certificate_for_logits_that_escape_is_an_error(rng: np.random.Generator) -> None:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=64, certify="strict")
    step = hire.transform(lambda x, w: jax.nn.softmax(x @ w.T), hire.Config(rules=(rule,)))
    with pytest.raises(
        hire.ConfigError,
        match=r"certify='strict' is impossible: the program returns values of .*with_sampler",
    ):
        step(array(rng, 2, D), array(rng, N, D))


def test_the_report_says_how_wrong_predicted_logits_were(rng: np.random.Generator) -> None:
    x, w = array(rng, 3, D), array(rng, N, D)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=64)
    step = hire.transform(lambda x, w: jax.nn.log_softmax(x @ w.T), hire.Config(rules=(rule,)))
    step(x, w)
    (tail,) = step.report().tails
    (arrays,) = step.prepare(x, w).values()
    error = wide(predict(x, arrays, CPU)) - wide(x) @ wide(w).T
    assert tail.rows == 3
    assert 0.5 * error.std() < tail.rms < 2 * error.std()
    assert tail.rms < tail.largest <= np.abs(error).max() * 1.01
    assert f"tail head/0: predicted logits were off by {tail.rms:.2g} (rms)" in said(step.report())


def test_slack_is_the_worst_case_of_a_float32_sum(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, 50, D)
    room = between(jnp.linalg.norm(w, axis=1)[None], x)
    assert (np.abs(wide(x @ w.T) - wide(x) @ wide(w).T) < wide(room)).all()


@pytest.mark.diagonal
@pytest.mark.parametrize("tail", [lambda z: jnp.argmax(z, -1), lambda z: jnp.argmax(jax.nn.softmax(z), -1)])
@pytest.mark.parametrize("certify", [True, "strict"])
def test_where_a_matrix_unit_rounds_its_inputs_no_product_of_a_proof_does(tail: Any, certify: Any) -> None:
    """Bounds are those of float32 sums; of the lengths of blocks alone they are wide enough for rounded ones."""
    d, blocks = 96, 96 // 32
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify=certify)
    head = jax.jit(lambda w, x: tail(jnp.dot(x, w.T, precision="highest")))
    step = hire.transform(head, hire.Config(rules=(rule,)), platform="gpu")
    text = step.lower(jax.ShapeDtypeStruct((4096, d), jnp.float32), jax.ShapeDtypeStruct((2, d), jnp.float32)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 2
    rounded = [line for line in products if "HIGHEST" not in line]
    assert all(f"x{blocks}xf32>" in line for line in rounded), rounded
