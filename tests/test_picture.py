"""A report as a picture."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from models import CONFIG, decode, tokens, weights

import hire_compiler as hire


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


def test_what_cannot_be_drawn_is_an_error(report: hire.Report, tmp_path: Path) -> None:
    with pytest.raises(hire.HireError, match=r"report\.jpg: a picture ends in \.svg, \.png, \.pdf"):
        hire.draw(report, tmp_path / "report.jpg")
    pytest.importorskip("matplotlib")
    with pytest.raises(hire.HireError, match="nothing to draw"):
        hire.draw(hire.Report(), tmp_path / "report.svg")
    assert not list(tmp_path.iterdir())
