"""Predictors and forms of top-k beside the plain ones: packed 4-bit copies, int8 factors, cascades, blocks, buckets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.logits import candidate_logits, exact_logits, fill_tail, select_candidates
from hire_compiler.runtime.low_rank import prepare_low_rank
from hire_compiler.runtime.predictors import RECORDS, kept_for, matrices_of, predict, prepare_copies, refine
from hire_compiler.runtime.quantized import prepare_int4, prepare_quantized, unpack_int4
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target, store, target_for
from hire_compiler.runtime.topk import bucket_winners, top_candidates, two_stage_top_k
from tests.support.models import VOCABULARY, D, array, head

Array = np.ndarray
CPU = target_for("cpu")
TARGETS = {"cpu": CPU, "gpu": target_for("gpu"), "cpu, small chunks": replace(CPU, chunk_bytes=7 * 4 * 24)}
on_every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def wide(array: Any) -> Array:
    return np.asarray(jnp.asarray(array).astype(jnp.float32), np.float64)


def stored(arrays: dict[str, jax.Array], target: Target) -> dict[str, jax.Array]:
    return {name: store(value, target) for name, value in arrays.items()}


# --------------------------------------------------------------------------- 4 bits


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(("d", "columns"), [(24, 4), (24, 8), (24, 24), (20, 4)])  # 3, 1 and 5 blocks: filled up
def test_the_4_bit_copy_is_within_half_a_step_of_every_weight(d: int, columns: int, rng: np.random.Generator) -> None:
    rows = array(rng, 50, d) * jnp.asarray(10.0 ** rng.integers(-2, 3, (50, d // columns)).repeat(columns, 1))
    made = prepare_int4(rows, columns)
    blocks = d // columns
    assert made["q4"].shape == ((blocks + 1) // 2, 50, columns)
    assert made["q4"].dtype == jnp.uint8
    copy = wide(unpack_int4(made, d))
    step = wide(made["scale4"])[:blocks].T.repeat(columns, 1)
    assert (np.abs(copy - wide(rows)) <= 0.54 * step).all()  # half a step, and what bfloat16 takes off the largest
    assert (np.abs(copy / step).round(3).reshape(50, blocks, columns).max(axis=2) == 7).all()


def test_the_4_bit_copy_of_zeros_is_zero(rng: np.random.Generator) -> None:
    rows = array(rng, 6, 16).at[2].set(0).at[:, 4:8].set(0)
    copy = wide(unpack_int4(prepare_int4(rows, 4), 16))
    assert not copy[2].any()
    assert not copy[:, 4:8].any()
    assert copy[1].any()


@pytest.mark.slow
@on_every_target
@pytest.mark.parametrize("batch", [1, 3, 11])
@pytest.mark.parametrize("columns", [8, 24])
def test_4_bit_scores_are_those_of_the_copy(target: Target, batch: int, columns: int, rng: np.random.Generator) -> None:
    made, x = prepare_int4(array(rng, 100, 24), columns), array(rng, batch, 24)
    got = predict(x, stored(made, target), target)
    np.testing.assert_allclose(got, wide(x) @ wide(unpack_int4(made, 24)).T, rtol=1e-4, atol=1e-4)


@pytest.mark.diagonal(keep=1)
@on_every_target
@pytest.mark.parametrize("batch", [1, 4, 5, 6, 16])
@pytest.mark.parametrize("n", [96, 101])
def test_batches_of_every_size_get_the_same_scores(
    target: Target, batch: int, n: int, rng: np.random.Generator
) -> None:
    x, rows = array(rng, batch, 24), array(rng, n, 24)
    for made in (prepare_quantized(rows), prepare_low_rank(rows, 24, None, "bfloat16")):
        got = predict(x, stored(made, target), target)
        np.testing.assert_allclose(got, wide(x) @ wide(rows).T, atol=0.3)
        alone = jnp.concatenate([predict(x[i : i + 1], stored(made, target), target) for i in range(batch)])
        np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------- int8 factors


@pytest.mark.slow
def test_int8_factors_lose_little_though_their_columns_differ_a_thousandfold(rng: np.random.Generator) -> None:
    rows = array(rng, 400, 32) * jnp.asarray(np.geomspace(100, 0.1, 32), jnp.float32)
    x = array(rng, 50, 32) / jnp.asarray(np.geomspace(100, 0.1, 32), jnp.float32)  # every column counts alike
    moment = jnp.asarray(wide(x).T @ wide(x) / 50, jnp.float32)
    narrow, exact = (prepare_low_rank(rows, 24, moment, dtype) for dtype in ("int8", "float32"))
    assert (narrow["b"].dtype, narrow["b_scale"].shape) == (jnp.int8, (400,))
    wanted, got = (wide(predict(x, made, CPU)) for made in (exact, narrow))
    assert np.abs(got - wanted).std() < 0.02 * wanted.std()


# --------------------------------------------------------------------------- top-k


SCORES = {
    "random": lambda rng: rng.normal(size=(3, 3000)),
    "few values, many ties": lambda rng: rng.integers(0, 9, (3, 3000)),
    "all equal": lambda rng: np.zeros((2, 3000)),
    "mostly minus infinity": lambda rng: np.where(rng.random((3, 3000)) < 0.004, rng.normal(size=(3, 3000)), -np.inf),
    "sorted": lambda rng: np.arange(3000.0)[None],
}


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("k", [1, 5, 23])
def test_the_two_stage_form_chooses_what_the_plain_one_chooses(name: str, k: int, rng: np.random.Generator) -> None:
    scores = jnp.asarray(SCORES[name](rng), jnp.float32)
    wanted = np.sort(jax.lax.top_k(scores, k)[1])
    np.testing.assert_array_equal(np.sort(two_stage_top_k(scores, k)), wanted)
    np.testing.assert_array_equal(top_candidates(scores, k, CPU), wanted)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("count", [7, 64, 1000, 3000])
def test_bucket_winners_are_the_best_of_their_buckets(name: str, count: int, rng: np.random.Generator) -> None:
    scores = np.asarray(SCORES[name](rng), np.float32)
    got = np.asarray(bucket_winners(jnp.asarray(scores), count))
    assert got.shape == (len(scores), count)
    np.testing.assert_array_equal(np.sort(got % count), np.tile(np.arange(count), (len(scores), 1)))
    padded = np.pad(scores, ((0, 0), (0, -3000 % count)), constant_values=-np.inf).reshape(len(scores), -1, count)
    best = np.take_along_axis(padded.max(axis=1), got % count, axis=1)
    np.testing.assert_allclose(np.take_along_axis(scores, got, axis=1), best, rtol=1e-3)


# --------------------------------------------------------------------------- cascades


def cascade(rows: jax.Array, rank: int) -> dict[str, jax.Array]:
    return prepare_low_rank(rows, rank, None, "float32") | prepare_quantized(rows)


@pytest.mark.slow
def test_a_cascade_ranks_the_survivors_by_the_finer_copy(rng: np.random.Generator) -> None:
    x, rows = array(rng, 3, D), array(rng, 400, D)
    made = cascade(rows, 6)
    survivors = np.asarray(bucket_winners(predict(x, made, CPU), 100))
    fine = wide(x) @ (wide(made["q"]) * wide(made["scale"])[:, None]).T
    np.testing.assert_allclose(
        refine(x, made, jnp.asarray(survivors), CPU), np.take_along_axis(fine, survivors, 1), 1e-4, 1e-4
    )
    kept = np.full(fine.shape, -np.inf)
    np.put_along_axis(kept, survivors, np.take_along_axis(fine, survivors, 1), axis=1)
    ids, logits = candidate_logits(x, StoredRows(rows, CPU), made, 20, CPU, survivors=100)
    np.testing.assert_array_equal(ids, np.sort(np.argsort(-kept, axis=1)[:, :20], axis=1))
    np.testing.assert_allclose(logits, np.take_along_axis(wide(x) @ wide(rows).T, np.asarray(ids), 1), 1e-5, 1e-5)


@pytest.mark.slow
def test_the_logits_of_a_cascade_are_coarse_then_finer_then_exact(rng: np.random.Generator) -> None:
    x, rows = array(rng, 2, D), array(rng, 300, D)
    made = cascade(rows, 6)
    coarse, exact = wide(predict(x, made, CPU)), wide(x) @ wide(rows).T
    ids, scores = select_candidates(x, made, 10, CPU, survivors=60)
    got = wide(fill_tail(scores, ids, exact_logits(x, StoredRows(rows, CPU), ids), "predicted"))
    np.testing.assert_allclose(np.take_along_axis(got, np.asarray(ids), 1), np.take_along_axis(exact, ids, 1), 1e-5)
    finer = np.abs(wide(scores) - coarse) > 1e-3
    assert (finer.sum(axis=1) > 40).all()
    np.testing.assert_allclose(wide(scores)[finer], exact[finer], atol=0.2)
    assert (got == coarse).sum() >= 2 * (300 - 60)


def test_a_cascade_finds_the_winners_of_a_program_behind_a_bias(rng: np.random.Generator) -> None:
    x, w, bias = array(rng, 3, D), array(rng, VOCABULARY, D), array(rng, VOCABULARY) * 40
    rule = hire.Rule(
        kind="head",
        predictor=hire.Cascade(hire.LowRank(12, dtype="int8"), hire.Quantized(8), survivors=128),
        candidates=32,
    )
    step = hire.transform(lambda x, w, b: jax.lax.top_k(x @ w.T + b, 4), hire.Config(rules=(rule,)))
    values, ids = step(x, w, bias)
    (decision,) = step.report().rewritten
    assert decision.predictor == "Cascade(LowRank(rank=12, int8), Quantized(bits=8), survivors=128)"
    logits = wide(x) @ wide(w).T + wide(bias)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=1)[:, :4])
    np.testing.assert_allclose(values, -np.sort(-logits, axis=1)[:, :4], rtol=1e-5)


# --------------------------------------------------------------------------- what a rule may not ask for

Q8, LR4 = hire.Quantized(8), hire.LowRank(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hire.Quantized(5), "Quantized.bits is 5: only 8, 6 and 4"),
        (lambda: hire.Quantized(4), r"Quantized\(4\) needs a scale per block of columns: give columns=64"),
        (lambda: hire.Quantized(4, columns=0), "Quantized.columns is 0, must be at least 1"),
        (lambda: hire.Quantized(8, columns=64), "an 8-bit copy has one scale per row: leave columns out"),
        (lambda: hire.Cascade(Q8, LR4), r"Cascade.coarse is Quantized.*first pass is a LowRank"),
        (lambda: hire.Cascade(LR4, hire.Quantized(4, columns=64)), r"Cascade.fine is .*second pass is Quantized\(8\)"),
        (lambda: hire.Cascade(LR4, Q8, survivors=0), "Cascade.survivors is 0"),
        (lambda: hire.Rule(kind="ffn", predictor=hire.Cascade(LR4, Q8), candidates=8), "Cascade is for heads"),
        (
            lambda: hire.Rule(kind="head", predictor=hire.Cascade(LR4, Q8), candidates=8, certify=True),
            "certify needs predictor=Quantized.*too wide to prove",
        ),
        (
            lambda: hire.Rule(kind="head", predictor=hire.Quantized(4, columns=4), candidates=8, certify="strict"),
            "certify needs",
        ),
    ],
)
def test_a_predictor_without_meaning_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(hire.ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("predictor", "candidates", "message"),
    [
        (hire.Quantized(4, columns=5), 8, r"columns 5 .* do not divide the input width d = 16; use one of \[16\]"),
        (hire.Cascade(LR4, Q8, survivors=16), 32, "a cascade narrows, but 512 rows → 16 survivors → 32 candidates"),
        (hire.Cascade(LR4, Q8, survivors=600), 32, "a cascade narrows, but 512 rows → 600 survivors"),
        (hire.Cascade(hire.LowRank(16), Q8, survivors=64), 32, "first pass is the cheaper one.*lower the rank"),
        (Q8, 513, "candidates 513 are more than the 512 rows"),
        (Q8, 3, "3 candidates cannot hold the top 4"),
    ],
)
def test_a_predictor_that_does_not_fit_a_site_is_refused_with_its_name(
    predictor: Any, candidates: int, message: str, rng: np.random.Generator
) -> None:
    rule = hire.Rule(kind="head", predictor=predictor, candidates=candidates)
    step = hire.transform(lambda x, w: jax.lax.top_k(x @ w.T, 4), hire.Config(rules=(rule,)))
    with pytest.raises(hire.ConfigError, match=rf"rule 0 on head/0 .*{message}"):
        step(array(rng, 2, D), array(rng, VOCABULARY, D))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    "predictor",
    [Q8, hire.Quantized(4, columns=4), LR4, hire.LowRank(4, dtype="int8"), hire.Cascade(LR4, Q8, survivors=64)],
    ids=str,
)
def test_hidden_states_that_are_no_numbers_get_the_answer_of_dense(predictor: Any, rng: np.random.Generator) -> None:
    """Unproven heads too: the NaN is handed on, and the tokens beside it are dense's."""
    rule = hire.Rule(kind="head", predictor=predictor, candidates=16)
    dense = jax.jit(lambda x, w: jax.lax.top_k(x @ w.T, 4))
    step = hire.transform(dense, hire.Config(rules=(rule,)))
    x, w = array(rng, 2, D).at[1, 3].set(jnp.nan), array(rng, VOCABULARY, D)
    values, ids = step(x, w)
    np.testing.assert_array_equal(ids[1], dense(x, w)[1][1])
    assert np.isnan(values[1]).all()
    assert np.isfinite(values[0]).all()


@pytest.mark.parametrize(
    ("platform", "batch", "action"), [("cpu", 5, "rewritten"), ("cpu", 6, "dense"), ("tpu", 6, "rewritten")]
)
def test_a_4_bit_copy_is_no_gain_for_larger_batches_where_it_is_unpacked(
    platform: str, batch: int, action: str, rng: np.random.Generator
) -> None:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(4, columns=4), candidates=32)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)), platform=platform)
    (decision,) = step.report(array(rng, batch, D), array(rng, VOCABULARY, D)).decisions
    assert decision.action == action
    assert action == "rewritten" or "unpacked again for every row" in decision.reason


def test_the_report_counts_the_bytes_of_a_4_bit_copy(rng: np.random.Generator) -> None:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(4, columns=4), candidates=32)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    step(array(rng, 1, D), array(rng, VOCABULARY, D))
    (decision,) = step.report().rewritten
    assert decision.added_bytes == VOCABULARY * (D // 2 + 2 * 4)
    (arrays,) = step.prepare(array(rng, 1, D), array(rng, VOCABULARY, D)).values()
    assert sum(value.nbytes for value in arrays.values()) == decision.added_bytes


@pytest.mark.diagonal
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("n", [3000, 100_000])
def test_an_approximate_top_k_from_buckets_finds_the_best_and_most_others(
    name: str, n: int, rng: np.random.Generator
) -> None:
    scores = np.resize(np.asarray(SCORES[name](rng), np.float32), (2, n))
    if name == "random":
        scores = rng.normal(size=(2, n)).astype(np.float32)
    got = np.asarray(top_candidates(jnp.asarray(scores), 64, target_for("gpu")))
    assert got.shape == (2, 64)
    assert (np.diff(got) > 0).all()
    found = np.take_along_axis(scores, got, axis=1)
    np.testing.assert_array_equal(found.max(axis=1), scores.max(axis=1))
    if name == "random":
        lowest = -np.sort(-scores, axis=1)[:, 63:64]
        assert (found >= lowest).mean() > 0.9


# --------------------------------------------------------------------------- every record

COPIES = {
    "low_rank": [{"rank": 8, "dtype": dtype} for dtype in ("float32", "bfloat16", "int8")],
    "int8": [{}],
    "int4": [{"columns": 8}],
    "int6": [{}],
}


def test_every_kind_of_copy_is_tried() -> None:
    assert COPIES.keys() == RECORDS.keys()
    arrays = [name for record in RECORDS.values() for name in record.arrays]
    assert len(arrays) == len(set(arrays)), "an array says of which copy it is: no two records share a name"


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in COPIES.items() for options in several], ids=str
)
def test_the_matrices_of_a_copy_give_its_scores(name: str, options: dict[str, Any], rng: np.random.Generator) -> None:
    rows, x = array(rng, 50, 24), array(rng, 3, 24)
    prepared = prepare_copies(rows, [(name, options)], None, stacked=False)
    (matrices,) = matrices_of(prepared, 24)
    hidden = wide(x)
    for matrix in matrices:
        hidden = hidden @ wide(matrix).T
    np.testing.assert_allclose(predict(x, kept_for(prepared, 24, CPU), CPU), hidden, rtol=1e-3, atol=1e-3)
    assert sum(prepared[part].nbytes for part in prepared) == RECORDS[name].stored_bytes(50, 24, "float32", **options)
