"""``hire.compare``: the author's program and the rewritten one beside each other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_estimate import V5E, stored

import hire_compiler as hire
from hire_compiler.comparison.comparison import AS_WRITTEN, DENSE, REWRITTEN, Comparison, Output, Timing
from hire_compiler.comparison.turns import Turn, Turns
from hire_compiler.measuring.estimate import summarize
from tests.support.models import CONFIG, HEAD, VOCABULARY, D, array, decode, head, tokens, weights

ROUGH = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.LowRank(rank=1), candidates=2),), exact=False)

NOTHING = hire.Config(exact=False)


def remember(params: dict[str, Any], token: jax.Array, cache: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    """A step with a cache: the next token, and what was seen so far."""
    x = params["embed"][token] + cache["seen"]
    chosen = jnp.argmax(x @ params["embed"].T, axis=-1)
    return chosen, {"seen": jnp.tanh(x), "count": cache["count"] + 1}


def start(rng: np.random.Generator) -> tuple[Any, ...]:
    cache = {"seen": array(rng, 2, D), "count": jnp.zeros((), jnp.int32)}
    return weights(rng), tokens(rng), cache


def onward(results: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0], *results)


def by_name(found: Comparison) -> dict[str, Output]:
    return {output.name: output for output in found.outputs}


# --------------------------------------------------------------------------- one call


def test_one_call_is_timed_and_compared(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    found = hire.compare(step, weights(rng), tokens(rng), rounds=3)
    assert [(t.program, len(t.seconds)) for t in found.timings] == [(AS_WRITTEN, 3), (REWRITTEN, 3)]
    assert all(seconds > 0 for timing in found.timings for seconds in timing.seconds)
    assert found.ratio == found.timing(AS_WRITTEN).ms / found.timing(REWRITTEN).ms
    assert (found.calls, found.fed, found.tokens) == (1, "one call", (2, 2))
    assert (found.estimated, found.alone) == ("", None)
    (report, decisions) = step.report(), step.report().decisions
    assert found.dense_bytes == sum(d.dense_bytes for d in decisions)
    assert found.read_bytes == sum(d.sparse_bytes for d in decisions)
    assert found.added_bytes == sum(d.added_bytes for d in report.rewritten)
    assert {what for what, _ in found.seconds} == {"rewriting", "preparing", "compiling"}


def test_the_report_says_how_fast_it_is_from_then_on(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(decode), CONFIG), (weights(rng), tokens(rng))
    step(*args)
    assert step.report().speed is None
    found = hire.compare(step, *args, rounds=2)
    speed = step.report().speed
    assert speed == found.speed
    assert (speed.calls, speed.rewritten_ms) == (2, found.timing(REWRITTEN).ms)
    assert "2 of 2 integers equal" in speed.outputs


def test_donated_arguments_stay_usable(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(remember, donate_argnums=2), hire.Config(rules=(HEAD,))), start(rng)
    found = hire.compare(step, *args, rounds=2)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(args))
    assert found.copied_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(args[2]))
    assert "are copied before each call, untimed" in str(found)


def test_wrong_tokens_are_counted(rng: np.random.Generator) -> None:
    step = hire.transform(head, ROUGH)
    x, w = array(rng, 8, D), array(rng, VOCABULARY, D)
    wanted, got = np.asarray(head(x, w)), np.asarray(step(x, w))
    equal = int((wanted == got).sum())
    assert equal < 8
    found = hire.compare(step, x, w, rounds=1)
    assert found.tokens == (equal, 8)
    assert f"{equal} of 8 integers equal" in str(found)


def test_differences_of_floats_are_those_of_the_results(rng: np.random.Generator) -> None:
    def logits(x: jax.Array, w: jax.Array) -> dict[str, jax.Array]:
        return {"logits": jax.nn.log_softmax(x @ w.T)}

    step = hire.transform(jax.jit(logits), ROUGH)
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    wanted, got = (np.asarray(f(x, w)["logits"], np.float64) for f in (logits, step))
    (output,) = hire.compare(step, x, w, rounds=1).outputs
    assert (output.name, output.type) == ("['logits']", f"float32[2, {VOCABULARY}]")
    assert output.largest == pytest.approx(np.abs(wanted - got).max(), rel=1e-4)
    assert output.largest > 0.1
    assert output.scale == pytest.approx(np.abs(wanted).max())
    assert dict(output.recall)[1] < 1


def test_keyword_and_static_arguments_and_random_keys(rng: np.random.Generator) -> None:
    def sample(x: jax.Array, w: jax.Array, *, key: jax.Array, k: int) -> Any:
        return jax.lax.top_k(x @ w.T, k)[1], jax.random.split(key)[0]

    step = hire.transform(jax.jit(sample, static_argnames="k"), hire.Config(rules=(HEAD,)))
    args = array(rng, 2, D), array(rng, VOCABULARY, D)
    found = hire.compare(step, *args, key=jax.random.key(3), k=4, rounds=1)
    assert [output.total for output in found.outputs] == [8, 2]
    assert found.outputs[1].equal == 2


def test_a_method_of_a_module_and_a_plain_function(rng: np.random.Generator) -> None:
    for function in (decode, jax.jit(decode)):
        assert hire.compare(hire.transform(function, CONFIG), weights(rng), tokens(rng), rounds=1).tokens == (2, 2)


def test_a_flax_module_is_prepared_once(rng: np.random.Generator) -> None:
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.embed = nnx.Param(array(rng, VOCABULARY, D))

    @nnx.jit  # type: ignore[untyped-decorator]
    def step(model: Any, token: jax.Array) -> jax.Array:
        return jnp.argmax(model.embed[...][token] @ model.embed[...].T, -1)

    model, made = Model(), hire.transform(step, hire.Config(rules=(HEAD,)))
    before = model.embed[...]
    with warnings.catch_warnings():
        warnings.simplefilter("error", hire.HireWarning)  # it would warn of weights that change
        found = hire.compare(made, model, tokens(rng), rounds=8)
    assert found.tokens == (2, 2)
    assert model.embed[...] is before


def test_equinox_may_donate_everything(rng: np.random.Generator) -> None:
    eqx = pytest.importorskip("equinox")
    step = hire.transform(eqx.filter_jit(lambda x, w: (head(x, w), x + 1), donate="all"), hire.Config(rules=(HEAD,)))
    x, w = array(rng, 2, D), array(rng, VOCABULARY, D)
    found = hire.compare(step, x, w, rounds=2)
    assert found.tokens == (2, 2)
    assert not x.is_deleted()
    assert not w.is_deleted()


# --------------------------------------------------------------------------- several calls, a decode


def test_every_call_of_several_is_compared(rng: np.random.Generator) -> None:
    step, params = hire.transform(jax.jit(decode), CONFIG), weights(rng)
    found = hire.compare(step, calls=((params, tokens(rng, batch)) for batch in (1, 2, 2)))
    assert (found.calls, found.fed, found.tokens) == (3, "calls", (5, 5))
    assert [len(timing.seconds) for timing in found.timings] == [3, 3]


def test_a_decode_feeds_the_authors_results_to_both(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(remember, donate_argnums=2), hire.Config(rules=(HEAD,))), start(rng)
    found = hire.compare(step, *args, carry=onward, calls=6)
    assert (found.calls, found.fed, found.alone) == (6, "carry", 6)
    assert found.tokens == (6 * 2 + 6, 6 * 2 + 6)
    assert "the same integers throughout" in str(found)


def test_a_decode_that_goes_wrong_says_when(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(remember), ROUGH), start(rng)
    mine, own, alone = args, args, 0
    while alone < 8:
        wanted, got = remember(*mine), step(*own)
        if (np.asarray(wanted[0]) != np.asarray(got[0])).any():
            break
        alone, mine, own = alone + 1, onward(wanted, mine), onward(got, own)
    found = hire.compare(step, *args, carry=onward, calls=8)
    assert alone < 8
    assert found.alone == alone
    assert f"first differs in call {alone + 1}" in str(found)
    assert found.tokens[0] < found.tokens[1]


@pytest.mark.slow
def test_proofs_are_counted_once_a_call(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(remember)), start(rng)
    step(*args)
    for found, calls in (
        (hire.compare(step, *args, rounds=5), 1),
        (hire.compare(step, *args, carry=onward, calls=4), 4),
        (hire.compare(step, calls=[args] * 3, rounds=2), 3),
    ):
        (proof,) = found.proofs
        assert (proof.site, proof.rows, proof.proven) == ("head/0", 2 * calls, 2 * calls)


@pytest.mark.slow
def test_a_proof_that_fails_is_counted_and_its_dense_bytes_are_read(rng: np.random.Generator) -> None:
    step = hire.transform(head)
    x, w = array(rng, 2, D), jnp.ones((VOCABULARY, D)) * array(rng, D)  # every row ties
    found = hire.compare(step, x, w, rounds=2)
    (proof,), (decision,) = found.proofs, step.report().decisions
    assert (proof.rows, proof.proven) == (2, 0)
    assert found.read_bytes == decision.sparse_bytes + decision.dense_bytes
    assert "held for 0 of 2 rows (0.00%); for the others the dense" in str(found)


# --------------------------------------------------------------------------- a third program


def test_another_dense_form_is_a_third_column(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(remember, donate_argnums=2), hire.Config(rules=(HEAD,))), start(rng)
    found = hire.compare(step, *args, dense=remember, rounds=2)
    assert [timing.program for timing in found.timings] == [AS_WRITTEN, REWRITTEN, DENSE]
    fastest = min(found.timing(AS_WRITTEN).ms, found.timing(DENSE).ms)
    assert found.best_ratio == fastest / found.timing(REWRITTEN).ms
    assert all(output.largest < 1e-5 for output in found.dense_outputs)
    assert "over the best dense program" in str(found)


def test_a_dense_form_with_other_results_is_refused(rng: np.random.Generator) -> None:
    step, x, w = hire.transform(head, NOTHING), array(rng, 2, D), array(rng, VOCABULARY, D)
    with pytest.raises(hire.CaptureError, match="dense= returns"):
        hire.compare(step, x, w, dense=lambda x, w: (head(x, w), x), rounds=1)


# --------------------------------------------------------------------------- data, text, bad input


def known(*seconds: tuple[float, ...], **more: Any) -> Comparison:
    names = (AS_WRITTEN, REWRITTEN, DENSE)
    timings = tuple(Timing(program=name, seconds=taken) for name, taken in zip(names, seconds, strict=False))
    return Comparison(name="step", machine="here", timings=timings, **more)


def test_ratios_are_of_medians_and_the_spread_is_the_middle_half() -> None:
    found = known((0.03, 0.02, 0.04, 0.9, 0.02), (0.01, 0.01, 0.5, 0.02, 0.01), (0.018,))
    assert found.timing(AS_WRITTEN).ms == pytest.approx(30)
    assert found.timing(AS_WRITTEN).spread_ms == pytest.approx((20, 40))
    assert found.ratio == pytest.approx(3)
    assert found.best_ratio == pytest.approx(1.8)


@pytest.mark.slow
def test_it_is_data_json_and_text_of_eighty_columns(rng: np.random.Generator) -> None:
    step, args = hire.transform(jax.jit(remember, donate_argnums=2)), start(rng)
    found = hire.compare(step, *args, carry=onward, calls=2, dense=remember)
    with pytest.raises(AttributeError):
        found.calls = 3  # type: ignore[misc]
    read = json.loads(found.to_json())
    assert read["ratio"] == found.ratio
    assert [t["program"] for t in read["timings"]] == [AS_WRITTEN, REWRITTEN, DENSE]
    assert read["timings"][1]["median_ms"] == found.timing(REWRITTEN).ms
    assert read["tokens"] == {"equal": 6, "total": 6}
    assert all(len(line) <= 80 for line in str(found).splitlines()), str(found)


def test_the_layers_of_a_cache_share_a_line() -> None:
    layers = tuple(Output(name=f"[1][{i}]", type="float32[2]", largest=i / 100, scale=2.0) for i in range(24))
    text = str(known((1.0,), (0.5,), outputs=(Output(name="[0]", type="int32[1]", equal=1, total=1), *layers)))
    assert "[0] int32[1]: 1 of 1 integers equal" in text
    assert "[1], 24 arrays: off by at most 0.23 of 2" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, a: hire.compare(head, *a), "compare takes what hire.transform returned, not a function"),
        (lambda s, a: hire.compare(s, *a, calls=[a]), "not both"),
        (lambda s, a: hire.compare(s, calls=[]), "calls is empty"),
        (lambda s, a: hire.compare(s, calls=3), "or a number beside carry"),
        (lambda s, a: hire.compare(s, *a, carry=lambda r, a: a, calls=0), "how many calls to make, not 0"),
        (lambda s, a: hire.compare(s, *a, carry=3), "carry is a function"),
        (lambda s, a: hire.compare(s, *a, rounds=0), "rounds is 0"),
        (lambda s, a: hire.compare(s, *a, carry=lambda r, a: r, calls=2), "carry returned a"),
        (lambda s, a: hire.compare(s, *a, carry=lambda r, a: a[:1], calls=2), "carry returned 1 values.*a tuple of 2"),
        (lambda s, a: hire.compare(s, *jax.eval_shape(lambda *x: x, *a)), "give it arrays, not types"),
    ],
)
def test_bad_input_is_a_sentence(call: Callable[..., Any], message: str, rng: np.random.Generator) -> None:
    step, args = hire.transform(head, NOTHING), (array(rng, 2, D), array(rng, VOCABULARY, D))
    with pytest.raises(hire.HireError, match=message):
        call(step, args)


def test_a_step_for_a_gpu_that_is_not_here_is_refused(rng: np.random.Generator) -> None:
    step = hire.transform(head, platform="gpu")
    with pytest.raises(hire.EstimateError, match="made for platform 'gpu', which is not here"):
        hire.compare(step, array(rng, 2, D), array(rng, VOCABULARY, D))


def test_a_step_for_a_tpu_is_estimated_and_says_so(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    one = summarize(stored("scan"), V5E, name="step", tpu="v5e:2x2", compiler="libtpu 1")
    both = hire.Estimates(dense=one, rewritten=one)
    monkeypatch.setattr("hire_compiler.measuring.compare.estimate_both", lambda *_args, **_named: both)
    step = hire.transform(head, platform="tpu")
    found = hire.compare(step, array(rng, 2, D), array(rng, VOCABULARY, D))
    assert found.estimated == "the TPU compiler (libtpu 1)"
    assert found.timing(REWRITTEN).ms == pytest.approx(one.seconds * 1e3)
    assert found.read_bytes == one.hbm_bytes
    assert "an estimate by the TPU compiler (libtpu 1), not a measurement" in str(found)


# --------------------------------------------------------------------------- turns


def test_every_program_runs_once_untimed_before_each_timed_run_and_turns_alternate() -> None:
    ran: list[str] = []

    def turn(name: str) -> Turn:
        def bring() -> Callable[[], Any]:
            return lambda: ran.append(name)

        return Turn(bring)

    turns = Turns()
    for _ in range(2):
        turns.round({"a": turn("a"), "b": turn("b")})
    assert ran == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert [len(seconds) for seconds in turns.seconds.values()] == [2, 2]
