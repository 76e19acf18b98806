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

import hire_compiler as hire
from hire_compiler import Decision, Miss, Report, Site
from hire_compiler.reports.report import Certificate, Speed, report_of
from tests.support.models import (
    CONFIG,
    FFN,
    HEAD,
    VOCABULARY,
    WIDTH,
    D,
    array,
    decode,
    ffn,
    head,
    said,
    tokens,
    weights,
)


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
    report, text = made.report(), said(made.report())
    assert len(report.misses) == 1
    assert text.startswith("hire_compiler: on, 2 of 2 sites rewritten, ")
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
    assert text.startswith("hire_compiler: 1 site (7 with loops), 0 misses")
    assert "×7" in text
    assert "layers/mlp" in text


def test_a_long_headline_takes_two_lines_of_eighty_columns() -> None:
    shape = {"batch": 1, "d": 8, "width": 32, "dtype": "float32"}
    sites = tuple(Site(id=f"ffn/{i}", kind="ffn", path="", activation="relu", repeat=48, **shape) for i in range(2))
    bytes_of = {"dense_bytes": 123_456_789, "sparse_bytes": 98_765_432}
    planned = Decision(site="ffn/0", action="rewritten", reason="the exact default", **bytes_of)
    text = str(Report(sites=sites, decisions=(planned,)))
    first, second, *_ = text.splitlines()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{first} {second.strip()}".startswith("hire_compiler: on, 1 of 2 sites (96 with loops) rewritten, ")


def test_equal_lines_are_said_once_and_counted() -> None:
    misses = tuple(Miss(path="", reason="it is an expert", weight=f"w{i}") for i in range(3))
    text = str(Report(misses=(*misses, Miss(path="", reason="it is a router", weight="r"))))
    assert text.count("it is an expert") == 1
    assert re.search(r"it is an expert.*\(3 times\)", text)
    assert not re.search(r"router.*times", text)


def layers(count: int = 24) -> Report:
    """A model of equal layers whose blocks are rewritten, or left dense, with what attention and others miss."""
    shape = {"kind": "ffn", "activation": "relu", "batch": 1, "d": 2048, "width": 8192, "dtype": "float32"}
    dense = {"kind": "ffn", "activation": "silu", "gated": True, "batch": 1, "d": 64, "width": 128, "dtype": "float32"}
    numbers = range(count)
    sites = [Site(id=f"ffn/{i}", path=f"layers_{i}/mlp", **(shape if i % 2 else dense)) for i in numbers]
    exact = "exact: only zeros are skipped"
    decisions = [
        Decision(site=f"ffn/{i}", action="rewritten", reason="", predictor="Exact()", candidates=512, exactness=exact)
        if i % 2
        else Decision(site=f"ffn/{i}", action="dense", reason="silu is not sparse")
        for i in numbers
    ]
    misses = [
        Miss(path=f"layers_{i}/q_proj", reason="a projection of attention: expected", expected=True) for i in numbers
    ]
    proofs = [Certificate(site=f"ffn/{i}", rows=9, proven=9 if i < 20 else i - 20) for i in numbers if i % 2]
    return Report(sites=tuple(sites), decisions=tuple(decisions), misses=tuple(misses * 4), certificates=tuple(proofs))


def test_a_report_of_many_equal_layers_is_one_screen() -> None:
    for report in (layers(), dataclasses.replace(layers(), decisions=(), certificates=())):
        lines = str(report).splitlines()
        assert len(lines) <= 24, str(report)
        assert max(map(len, lines)) <= 80


def test_layers_that_rules_of_their_own_leave_dense_share_a_line() -> None:
    shape = {"kind": "ffn", "path": "", "activation": "relu", "batch": 1, "d": 64, "width": 128, "dtype": "float32"}
    sites = tuple(Site(id=f"ffn/{i}", **shape) for i in range(3))
    left = [Decision(site=f"ffn/{i}", action="dense", reason=f"rule {i + 1} says so") for i in range(3)]
    text = str(Report(sites=sites, decisions=tuple(left)))
    assert "ffn/0 … ffn/2 (3 sites)" in text
    assert "left dense: their rules say so" in text
    assert "left dense: rule 1 says so" in str(Report(sites=sites, decisions=(left[0],)))


def test_the_questions_are_answered_in_their_order() -> None:
    text = str(layers())
    places = [text.index(f"\n  {question}") for question in ("on?", "right?", "fast?", "why not?")]
    assert places == sorted(places)
    assert text.startswith("hire_compiler: on, 12 of 24 sites rewritten, ")


def test_expected_misses_are_one_line_and_in_full_on_request() -> None:
    text = str(layers())
    assert text.count("attention") == 1
    assert "96 projections of attention: expected" in text
    assert "layers_7/q_proj" not in text
    assert layers().text(full=True).count("/q_proj") == 96


def test_many_other_reasons_are_cut_and_in_full_on_request() -> None:
    misses = tuple(Miss(path=f"place_{i}", reason=f"reason {i}") for i in range(30))
    text = str(Report(misses=misses))
    assert "reason 5" in text
    assert "reason 6 " not in text
    assert "24 misses for other reasons: report.text(full=True) lists them" in " ".join(text.split())
    assert all(f"reason {i}  [place_{i}]" in Report(misses=misses).text(full=True) for i in range(30))


def test_a_proof_that_rarely_holds_stands_with_its_site_and_says_what_to_do() -> None:
    text = " ".join(str(layers()).split())
    assert "ffn/21, ffn/23: held for 4 of 18 rows (22.22%); for the others the dense code ran" in text
    assert "give its rule a larger density, or leave it dense" in text
    assert "held for all 90 rows" in text
    held = dataclasses.replace(layers(), certificates=layers().certificates[:5])
    assert "larger density" not in str(held)


def test_a_report_counts_what_was_read_where_proofs_failed() -> None:
    site = Site(id="head/0", kind="head", path="", consumers=("argmax",), batch=1, d=8, width=64, dtype="float32")
    decision = Decision(
        site="head/0",
        action="rewritten",
        reason="",
        dense_bytes=8_000_000,
        sparse_bytes=1_000_000,
        exactness="certified",
    )
    known = {"sites": (site,), "decisions": (decision,)}
    assert "8.0 MB → 1.0 MB read a call" in str(Report(**known)).splitlines()[0]
    proof = Certificate(site="head/0", rows=4, proven=1)
    assert "8.0 MB → 7.0 MB read a call" in str(Report(**known, certificates=(proof,))).splitlines()[0]


def test_printing_a_step_prints_its_report(step: hire.HireFunction) -> None:
    assert str(step) == str(step.report())
    assert "not called yet" in str(hire.transform(decode))
    assert repr(step) == "<hire_compiler.transform of decode>"


def test_how_fast_it_was_stands_in_the_report(step: hire.HireFunction) -> None:
    assert "not measured: hire.compare(step, …) says it" in str(step.report())
    speed = Speed(machine="cpu", calls=9, written_ms=30.0, rewritten_ms=20.0, low_ms=19.0, high_ms=21.0, outputs="same")
    text = str(dataclasses.replace(step.report(), speed=speed))
    assert "fast?    1.50× as fast: 30.00 → 20.00 ms a call" in text
    assert "not measured" not in text


def test_what_is_written_as_json_can_be_read_again(step: hire.HireFunction) -> None:
    report = step.report()
    assert report_of(json.loads(report.to_json())) == report
    older = {key: value for key, value in report.to_dict().items() if key in ("sites", "misses", "notes")}
    assert report_of(older).sites == report.sites


def test_a_dense_decision_gives_its_reason(rng: np.random.Generator) -> None:
    rule = hire.Rule(kind="head", dense=True)
    made = hire.transform(head, hire.Config(rules=(rule,)))
    made(array(rng, 2, D), array(rng, VOCABULARY, D))
    (decision,) = made.report().decisions
    assert decision.dense_bytes == decision.sparse_bytes
    assert f"left dense: {decision.reason}" in said(made.report())
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
        (lambda z: jnp.argmax(z, -1), {"candidates": 64}, "approximate: the result is exact if"),
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
        assert "other code also reads its pre-activation" in decision.reason


def test_two_blocks_may_share_their_neurons(rng: np.random.Generator) -> None:
    def program(x: jax.Array, w: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jax.nn.relu(jnp.sin(x) @ w)
        return h @ v, h @ (v * 2)

    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.1, group=8)
    step = hire.transform(program, hire.Config(rules=(rule,)))
    decisions = step.report(array(rng, 2, 64), array(rng, 64, 1024), array(rng, 1024, 64)).decisions
    assert [decision.reason for decision in decisions] == ["rule 0", "rule 0"]
