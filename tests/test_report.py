"""The report as data, as text and as JSON: nothing that is known is left out of any of them."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FFN, HEAD, VOCABULARY, WIDTH, D, array, decode, ffn, head, tokens, weights

import hire_compiler as hire
from hire_compiler import Decision, Miss, Report, Site


@pytest.fixture
def step(rng: np.random.Generator) -> hire.HireFunction:
    made = hire.transform(jax.jit(decode), CONFIG)
    made(weights(rng), tokens(rng))
    return made


def test_it_is_plain_frozen_data(step: hire.HireFunction) -> None:
    report = step.report()
    assert isinstance(report, Report)
    assert all(isinstance(site, Site) for site in report.sites)
    assert all(isinstance(decision, Decision) for decision in report.decisions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.sites = ()  # type: ignore[misc]


def test_a_site_says_what_and_where_it_is(step: hire.HireFunction) -> None:
    block, logits = step.report().sites
    assert (block.id, block.kind, block.activation, block.gated) == ("ffn/0", "ffn", "relu", False)
    assert (block.batch, block.d, block.width, block.dtype, block.repeat) == (2, D, WIDTH, "float32", 1)
    assert block.weights == ("params['mlp']['up']", "params['mlp']['down']")
    assert (logits.id, logits.kind, logits.activation, logits.consumers) == ("head/0", "head", None, ("argmax",))
    assert (logits.batch, logits.d, logits.width, logits.weights) == (2, D, VOCABULARY, ("params['embed']",))


def test_a_decision_counts_the_bytes_of_one_call(step: hire.HireFunction) -> None:
    block, logits = step.report().decisions
    assert (block.site, block.action, block.candidates, block.group) == ("ffn/0", "rewritten", WIDTH, 8)
    assert block.dense_bytes == 2 * WIDTH * D * 4
    assert (logits.site, logits.action, logits.candidates, logits.predictor) == (
        "head/0",
        "rewritten",
        64,
        "Quantized(bits=8)",
    )
    assert logits.dense_bytes == VOCABULARY * D * 4
    assert logits.sparse_bytes == VOCABULARY * (D + 4) + 64 * D * 4  # the int8 copy, its scales, the exact rows


def test_the_bytes_added_are_those_of_the_prepared_arrays(rng: np.random.Generator) -> None:
    step, x, w = hire.transform(head, hire.Config(rules=(HEAD,))), array(rng, 2, D), array(rng, VOCABULARY, D)
    (arrays,) = step.prepare(x, w).values()
    (decision,) = step.report(x, w).decisions
    assert decision.added_bytes == sum(a.nbytes for a in arrays.values())
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), density=0.5)
    block = hire.transform(ffn, hire.Config(rules=(rule,)))
    args = (array(rng, 2, D), array(rng, D, WIDTH), array(rng, WIDTH, D))
    (arrays,) = block.prepare(*args).values()
    (decision,) = block.report(*args).decisions
    assert decision.added_bytes == sum(a.nbytes for a in arrays.values())


def test_the_text_names_every_site_decision_miss_and_note(rng: np.random.Generator) -> None:
    def program(params: dict[str, Any], t: jax.Array, proj: jax.Array) -> Any:
        return decode(params, t), jnp.tanh(params["embed"][t] @ proj)

    unused = hire.Rule(kind="head", predictor=hire.Quantized(), density=0.5)
    made = hire.transform(jax.jit(program), hire.Config(rules=(*CONFIG.rules, unused)))
    made(weights(rng), tokens(rng), array(rng, D, D))
    report, text = made.report(), str(made.report())
    assert len(report.misses) == 1
    assert text.startswith("hire_compiler: 2 sites, 2 rewritten, 1 misses")
    for site, decision in zip(report.sites, report.decisions, strict=True):
        assert f"{site.d}→{site.width} {site.dtype} batch {site.batch}" in text
        assert f"{decision.candidates} of {site.width} rows exact" in text
        assert decision.exactness in text
    assert report.misses[0].reason in text
    assert len(report.notes) == 1
    assert report.notes[0] in text
    assert re.search(r"time .*capture \d+\.\d+ s", text)


def test_the_text_counts_the_trips_of_loops() -> None:
    shape = {"batch": 1, "d": 8, "width": 32, "dtype": "float32"}
    site = Site(id="ffn/0", kind="ffn", path="layers/mlp", activation="relu", repeat=7, **shape)
    text = str(Report(sites=(site,)))
    assert "1 sites (7 with loops)" in text
    assert "×7" in text
    assert "layers/mlp" in text


def test_equal_lines_are_said_once_and_counted() -> None:
    misses = tuple(Miss(path="", reason="it is an expert", weight=f"w{i}") for i in range(3))
    text = str(Report(misses=(*misses, Miss(path="", reason="it is a router", weight="r"))))
    assert text.count("it is an expert") == 1
    assert re.search(r"it is an expert.*\(3 times\)", text)
    assert not re.search(r"router.*times", text)


def test_a_dense_decision_gives_its_reason(rng: np.random.Generator) -> None:
    rule = hire.Rule(kind="head", dense=True)
    made = hire.transform(head, hire.Config(rules=(rule,)))
    made(array(rng, 2, D), array(rng, VOCABULARY, D))
    (decision,) = made.report().decisions
    assert decision.dense_bytes == decision.sparse_bytes
    assert f"left dense: {decision.reason}" in str(made.report())
    assert not made.report().rewritten


def test_an_uncalibrated_low_rank_predictor_is_said_to_be_one(rng: np.random.Generator) -> None:
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=64)
    made = hire.transform(head, hire.Config(rules=(rule,)))
    made(array(rng, 2, D), array(rng, VOCABULARY, D))
    (decision,) = made.report().decisions
    assert "not calibrated" in decision.reason


@pytest.mark.parametrize(
    ("read", "rule", "exactness"),
    [
        (lambda z: jnp.argmax(z, -1), {"candidates": 64}, "approximate: the winners are exact unless"),
        (jax.nn.softmax, {"candidates": 64}, "approximate: candidates exact, the other logits are not"),
        (lambda z: jnp.argmax(z, -1), {"density": 1.0}, "exact"),
    ],
)
def test_a_decision_says_how_exact_it_is(
    read: Any, rule: dict[str, Any], exactness: str, rng: np.random.Generator
) -> None:
    config = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.Quantized(), **rule),))
    made = hire.transform(lambda x, w: read(x @ w.T), config)
    made(array(rng, 2, D), array(rng, VOCABULARY, D))
    assert made.report().decisions[0].exactness.startswith(exactness)


def test_json_holds_everything_the_data_holds(step: hire.HireFunction) -> None:
    report = step.report()
    read = json.loads(report.to_json())
    assert read == json.loads(json.dumps(report.to_dict()))
    assert {field.name for field in dataclasses.fields(Report)} <= set(read)
    assert [site["id"] for site in read["sites"]] == ["ffn/0", "head/0"]
    first = {key: tuple(value) if isinstance(value, list) else value for key, value in read["sites"][0].items()}
    assert Site(**first) == report.sites[0]
    assert "\n" not in report.to_json(indent=None)


def test_json_has_the_fields_that_others_build_on(rng: np.random.Generator) -> None:
    read = json.loads(hire.inspect(decode, weights(rng), tokens(rng)).to_json())
    promised = {"id", "kind", "path", "activation", "batch", "d", "width", "dtype", "repeat"}
    assert all(promised <= set(site) for site in read["sites"])
    assert all(isinstance(site["repeat"], int) for site in read["sites"])
    missed = json.loads(hire.inspect(lambda x, w: jnp.tanh(x @ w), array(rng, 2, D), array(rng, D, D)).to_json())
    assert {"path", "reason"} <= set(missed["misses"][0])


def test_an_inspection_decides_nothing_and_its_text_says_where_the_sites_are(rng: np.random.Generator) -> None:
    def named(params: dict[str, Any], t: jax.Array) -> jax.Array:
        with jax.named_scope("decoder"):
            return decode(params, t)

    report = hire.inspect(jax.jit(named), weights(rng), tokens(rng))
    assert not report.decisions
    assert str(report).count("[decoder]") == 2


def test_stages_are_timed(step: hire.HireFunction) -> None:
    seconds = step.report().seconds
    assert {"capture", "normalize", "detect", "splice"} <= set(seconds)
    assert all(0 < spent < 60 for spent in seconds.values())


def test_equal_programs_give_equal_reports(rng: np.random.Generator) -> None:
    reports = []
    for _ in range(2):
        made = hire.transform(jax.jit(decode), hire.Config(rules=(HEAD, FFN)))
        made(weights(rng), tokens(rng))
        reports.append(dataclasses.replace(made.report(), seconds={}))
    assert reports[0] == reports[1]


READ_ELSEWHERE = {
    "attention takes its part of a fused product": lambda x, w, v: (
        lambda z: (jnp.tanh(z[:, :D]), jax.nn.relu(z[:, D:]) @ v)
    )(jnp.sin(x) @ w),
    "the neurons are returned": lambda x, w, v: (lambda h: (h @ v, h))(jax.nn.relu(jnp.sin(x) @ w[:, D:])),
}


@pytest.mark.parametrize("name", READ_ELSEWHERE)
def test_a_product_that_others_read_is_not_counted_as_saved(name: str, rng: np.random.Generator) -> None:
    x, w, v = array(rng, 2, 64), array(rng, 64, D + 1024), array(rng, 1024, 64)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.1, group=8)
    step = hire.transform(READ_ELSEWHERE[name], hire.Config(rules=(rule,)))
    (decision,) = step.report(x, w, v).decisions
    first, second = 64 * 1024 * 4, 1024 * 64 * 4
    assert decision.dense_bytes == first + second
    if decision.action == "rewritten":
        assert decision.sparse_bytes > first
        assert f"{first} bytes of its first products are read as before" in decision.reason
    else:
        assert "read elsewhere and runs on" in decision.reason


def test_two_blocks_may_share_their_neurons(rng: np.random.Generator) -> None:
    def program(x: jax.Array, w: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jax.nn.relu(jnp.sin(x) @ w)
        return h @ v, h @ (v * 2)

    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.1, group=8)
    step = hire.transform(program, hire.Config(rules=(rule,)))
    decisions = step.report(array(rng, 2, 64), array(rng, 64, 1024), array(rng, 1024, 64)).decisions
    assert [decision.reason for decision in decisions] == ["rule 0", "rule 0"]
