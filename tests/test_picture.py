"""A report as a picture."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from exports import dotted, exported, parameters
from models import CONFIG, decode, tokens, weights

import hire_compiler as hire
from hire_compiler.cli import main


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
    for words in ("2 sites, 2 rewritten, ", "ffn relu, 16→64 float32", "head argmax, 16→512 float32"):
        assert f"<!-- {words}" in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"report.svg", "report.png"}


def test_an_inspection_has_a_dense_bar_for_every_site(rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = hire.inspect(jax.jit(decode), weights(rng), tokens(rng))
    hire.draw(found, tmp_path / "found.svg")
    text = (tmp_path / "found.svg").read_text()
    for words in ("2 sites, ", "nothing decided", "found, nothing decided", " 0.00819 MB", " 0.0328 MB"):
        assert f"<!-- {words}" in text or words in text


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
        assert f"<!-- {platform}: 2 sites, 1 rewritten" in text
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_an_error(report: hire.Report, tmp_path: Path) -> None:
    with pytest.raises(hire.HireError, match=r"report\.jpg: a picture ends in \.svg, \.png, \.pdf"):
        hire.draw(report, tmp_path / "report.jpg")
    pytest.importorskip("matplotlib")
    with pytest.raises(hire.HireError, match="nothing to draw"):
        hire.draw(hire.Report(), tmp_path / "report.svg")
    assert not list(tmp_path.iterdir())
