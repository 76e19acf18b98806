"""On generated heads: full width is dense, and the same selection gives the same winners."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import assume, given
from hypothesis import strategies as st

from hire_compiler.runtime.predictors import predict
from hire_compiler.runtime.topk import top_candidates
from tests.support.programs import (
    TOP,
    WINNERS,
    Head,
    heads,
    rounding,
    wide,
)
from tests.support.properties import (
    CPU,
    FAST,
    SLOW,
    Array,
    assert_close,
    compiled,
    predictor_arrays,
    predictors,
    the_rewrite,
)


def check_winners(kind: str, got: object, logits: Array, slack: Array) -> None:
    """``got`` is a valid argmax or top_k of ``logits``, of which each may be off by its slack."""
    if kind == "argmax":
        ids = np.asarray(got)[..., None]
        values = None
    else:
        values, ids = (np.asarray(part) if part.dtype != jnp.bfloat16 else wide(part) for part in got)
    ids = ids.reshape(logits.shape[0], -1)
    k = ids.shape[1]
    assert k == (1 if kind == "argmax" else TOP)
    assert all(len(set(row)) == k for row in ids)
    wanted = -np.sort(-logits, axis=1)[:, :k]
    taken = np.take_along_axis(logits, ids, axis=1)
    room = 2 * slack.max(axis=1, keepdims=True)
    assert (taken >= wanted - room).all(), f"{kind} took rows that are not the best"
    if values is not None:
        assert_close(wide(values).reshape(logits.shape[0], -1), taken, np.broadcast_to(room, taken.shape), kind)


def check_consumers(program: Head, got: dict[str, object], logits: Array, slack: Array) -> None:
    assert set(got) == set(program.consumers)
    worst = slack.max(axis=1, keepdims=True)
    for kind, result in got.items():
        if kind in WINNERS:
            check_winners(kind, result, logits, slack)
            continue
        result = wide(result).reshape(logits.shape)
        if kind == "returned":
            finite = np.isfinite(logits)
            assert np.array_equal(finite, np.isfinite(result))
            assert_close(np.where(finite, result, 0), np.where(finite, logits, 0), slack, kind)
            continue
        wanted = scipy.special.log_softmax(logits, axis=1)
        storage = rounding("float32" if program.upcast else program.dtype)
        if kind == "log_softmax":
            finite = np.isfinite(wanted)
            assert np.array_equal(finite, np.isfinite(result))
            room = 2 * worst + storage * np.abs(np.where(finite, wanted, 0)) + storage
            assert_close(np.where(finite, result, 0), np.where(finite, wanted, 0), room, kind)
        else:
            assert_close(result, np.exp(wanted), np.exp(wanted) * np.expm1(2 * worst + 8 * storage) + 1e-7, kind)


def check_full_width_head(program: Head, predictor: object, tail: str) -> None:
    params, x = program.arguments()
    step = compiled(program.function, "head", predictor=predictor, density=1.0, tail=tail)
    dense, sparse = jax.jit(program.function)(params, x), step(params, x)
    assert the_rewrite(step).exactness.startswith("exact")
    assert jax.tree.map(lambda a: (a.shape, a.dtype), dense) == jax.tree.map(lambda a: (a.shape, a.dtype), sparse)
    raw, size = program.products(params, x)
    logits = program.finish(raw, params)[program.read_rows()]
    slack = program.slack(size, params)[program.read_rows()]
    for result in (dense, sparse):
        check_consumers(program, result, logits, slack)


def check_small_width_head(program: Head, predictor: object, tail: str) -> None:
    winners_only = set(program.consumers) <= set(WINNERS)
    assume(winners_only or not (tail == "dropped" and program.softcap))  # refused: tests/passes/test_heads.py
    params, x = program.arguments()
    step = compiled(program.function, "head", predictor=predictor, candidates=64, tail=tail)
    result = step(params, x)
    assume("unpacked again" not in step.report().decisions[0].reason)  # left dense: tests/runtime/test_predictors.py
    the_rewrite(step)
    arrays = predictor_arrays(step.prepare(params, x))
    scores = predict(program.inputs(params, x), arrays, CPU)
    # Candidates are those with the best predicted values of what the program compares.
    ranking = jnp.asarray(program.finish(wide(scores), params), jnp.float32)
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, np.asarray(top_candidates(ranking, 64)), True, axis=1)
    raw, size = program.products(params, x)
    seen = program.read_rows()
    if winners_only:
        logits = program.finish(raw, params)
        ids = {kind: np.asarray(r if kind == "argmax" else r[1]).reshape(len(seen), -1) for kind, r in result.items()}
        if program.bias:
            # What the bias does to the choice of candidates is tests/passes/test_heads.py's business. Here: whatever
            # was chosen is a winner among what was chosen, and its value is the exact one.
            kept[:] = False
            for chosen in ids.values():
                kept[seen[:, None], chosen] = True
        for chosen in ids.values():
            assert np.take_along_axis(kept[seen], chosen, axis=1).all()
        logits = np.where(kept, logits, -np.inf)
    else:
        outside = wide(scores) if tail == "predicted" else np.full(raw.shape, -np.inf)
        with np.errstate(invalid="ignore"):
            logits = program.finish(np.where(kept, raw, outside), params)
    check_consumers(program, result, logits[seen], program.slack(size, params)[seen])


tails = st.sampled_from(("predicted", "dropped"))


@pytest.mark.slow
@FAST
@given(heads(), predictors, tails)
def test_full_width_is_identity_for_heads(program: Head, predictor: object, tail: str) -> None:
    check_full_width_head(program, predictor, tail)


@pytest.mark.slow
@FAST
@given(heads(winners_only=True), predictors)
def test_same_selection_same_winners(program: Head, predictor: object) -> None:
    check_small_width_head(program, predictor, "predicted")


@pytest.mark.slow
@FAST
@given(heads(), predictors, tails)
def test_same_selection_same_answer_for_heads(program: Head, predictor: object, tail: str) -> None:
    check_small_width_head(program, predictor, tail)


@pytest.mark.slow
@SLOW
@given(heads(), predictors, tails, st.booleans())
def test_heads_at_length(program: Head, predictor: object, tail: str, full: bool) -> None:
    (check_full_width_head if full else check_small_width_head)(program, predictor, tail)
