"""A report as a picture."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.comparison.comparison import AS_WRITTEN, REWRITTEN, Comparison, Timing
from hire_compiler.pictures.bars import bars_of
from hire_compiler.tuning.tuned import Tried
from tests.support.exports import dotted, exported, parameters
from tests.support.models import CONFIG, decode, tokens, weights


@pytest.fixture
def report(rng: np.random.Generator) -> hire.Report:
    step = hire.transform(jax.jit(decode), CONFIG)
    step(weights(rng), tokens(rng))
    return step.report()


def test_every_site_has_its_bar(report: hire.Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    hire.draw(report, tmp_path / "report.svg")
    hire.draw(report.to_dict(), tmp_path / "report.png")
    text = (tmp_path / "report.svg").read_text()
    for words in ("2 of 2 sites rewritten", "block: relu, 16 → 64", "head: argmax, 16 → 512", "exact", "approximate"):
        assert f"<!-- {words}" in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"report.svg", "report.png"}


def test_an_inspection_has_a_dense_bar_for_every_site(rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = hire.inspect(jax.jit(decode), weights(rng), tokens(rng))
    hire.draw(found, tmp_path / "found.svg")
    text = (tmp_path / "found.svg").read_text()
    for words in ("2 sites found, ", "8.19 kB, found, nothing decided", "32.8 kB, found, nothing decided"):
        assert f"<!-- {words}" in text


@pytest.mark.slow
@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "tpu")])
@pytest.mark.parametrize("form", ["model.hire", "model"])
def test_an_artifact_has_a_panel_for_every_platform(form: str, platforms: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rules = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.Quantized(), density=1.0),))
    hire.rewrite(exported(), rules, weights=dotted(parameters()), platforms=platforms).save(tmp_path / form)
    assert main(["report", str(tmp_path / form), "--picture", str(tmp_path / "r.svg")]) == 0
    assert main(["report", str(tmp_path / form), "--picture", str(tmp_path / "r.png")]) == 0
    text = (tmp_path / "r.svg").read_text()
    for platform in platforms:
        assert f"<!-- {platform}: 1 of 2 sites rewritten" in text
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_bars_are_of_all_sites_of_a_kind_and_coloured_by_what_the_answer_is_worth() -> None:
    shape = {"kind": "ffn", "path": "", "activation": "relu", "batch": 1, "d": 8, "width": 32, "dtype": "float32"}
    worth = ("exact: only zeros", "certified: proven", "approximate: some")
    decide = lambda i, words: hire.Decision(  # noqa: E731
        site=f"ffn/{i}", action="rewritten", reason="", dense_bytes=100, sparse_bytes=10 + i % 3, exactness=words
    )
    sites = tuple(hire.Site(id=f"ffn/{i}", repeat=2, **shape) for i in range(6))
    dense = hire.Decision(site="ffn/5", action="dense", reason="so", dense_bytes=100, sparse_bytes=100)
    decisions = (*(decide(i, worth[i % 3]) for i in range(5)), dense)
    bars = {bar.answer: bar for bar in bars_of(hire.Report(sites=sites, decisions=decisions))}
    assert {name: (bar.count, bar.dense_bytes, bar.read_bytes) for name, bar in bars.items()} == {
        "exact": (4, 400, 40),
        "certified": (4, 400, 44),
        "approximate": (2, 200, 24),
        "dense": (2, 200, 200),
    }


def test_a_comparison_is_drawn_with_its_times(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    timings = tuple(Timing(program=name, seconds=(ms / 1e3,) * 3) for name, ms in ((AS_WRITTEN, 30), (REWRITTEN, 20)))
    hire.draw(Comparison(name="decode", machine="a machine", timings=timings), tmp_path / "times.svg")
    text = (tmp_path / "times.svg").read_text()
    for words in ("decode: 1.50× as fast", "measured on a machine", "30 ms", "20 ms,  1.50× as fast as written"):
        assert f"<!-- {words}" in text


def test_what_tune_tried_is_drawn_as_a_trade_off(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def tried(name: str, ms: float | None, predictor: Any = None, certify: bool = False, **more: Any) -> Tried:
        rule = predictor and hire.Rule(kind="head", predictor=predictor, candidates=128, certify=certify)
        return Tried(site="head/0", name=name, ms=ms, rule=rule, **more)

    table = (
        tried("dense", 9.0),
        tried("certified, exact", 3.0, hire.Quantized(8), certify=True),
        tried("LowRank(64, int8)", 1.5, hire.LowRank(64), recall=0.9995, family="LowRank, int8", chosen=True),
        tried("LowRank(96, int8)", 1.8, hire.LowRank(96), recall=0.9999, family="LowRank, int8", why="slower"),
        tried("LowRank(32, int8)", None, hire.LowRank(32), recall=0.9, why="its recall falls short"),
    )
    found = hire.Tuned(config=hire.Config(), calibration=hire.Calibration(), table=table, recall=0.999, machine="here")
    hire.draw(found, tmp_path / "tuned.svg")
    text = (tmp_path / "tuned.svg").read_text()
    for words in (
        "head/0: the fastest setting for recall 0.999", "dense, 9.00 ms", "certified, exact, 3.00 ms", "LowRank, int8",
        "chosen: LowRank(64, int8), 1.50 ms", "recall on held-out rows", "milliseconds",
    ):  # fmt: skip
        assert f"<!-- {words}" in text
    assert "1 setting rejected without timing" in text
    found_all = replace(table[2], recall=1.0)
    hire.draw(replace(found, table=(table[0], found_all)), tmp_path / "all.svg")
    marks = re.findall(r"<!-- (1|[01]\.\d+) -->", (tmp_path / "all.svg").read_text())
    assert "1" in marks
    assert max(map(float, marks)) == 1
    nothing = hire.Tuned(config=hire.Config(), calibration=hire.Calibration(), table=table[4:])
    with pytest.raises(hire.HireError, match="no setting was timed"):
        hire.draw(nothing, tmp_path / "nothing.svg")


def test_what_cannot_be_drawn_is_an_error(report: hire.Report, tmp_path: Path) -> None:
    with pytest.raises(hire.HireError, match=r"report\.jpg: a picture ends in \.svg, \.png, \.pdf"):
        hire.draw(report, tmp_path / "report.jpg")
    pytest.importorskip("matplotlib")
    with pytest.raises(hire.HireError, match="nothing to draw"):
        hire.draw(hire.Report(), tmp_path / "report.svg")
    assert not list(tmp_path.iterdir())
