"""Models nobody here wrote, lowered from their own packages.

Every site is found, full width is identity, and at a small width the rewrite equals the author's own graph with
everything masked out that was not selected.

Needs ``pip install -e ".[zoo]"``; a family whose package is missing is skipped.
"""

from __future__ import annotations

import importlib.util

import hf_flax
import jax
import keras_models
import penzai_models
import pytest
import small_code_bases
import torch_models
import tunix_models
from lowered import Model, every_site

import hire_compiler as hire
from tests.support.masked import largest_difference, masked

FAMILIES = (hf_flax, torch_models, keras_models, tunix_models, penzai_models, small_code_bases)
QUICK = {"HF_Flax-OPT", "HF_Flax-Llama"}


def _cases() -> list[object]:
    cases = []
    for family in FAMILIES:
        for model in family.MODELS:
            package = model.package or family.PACKAGE
            missing = importlib.util.find_spec(package) is None
            marks = [pytest.mark.skipif(missing, reason=f"{package} is not installed")]
            marks += [] if model.id in QUICK else [pytest.mark.slow]
            cases.append(pytest.param(model, id=model.id, marks=marks))
    return cases


@pytest.mark.parametrize("model", _cases())
def test_every_site_is_found_and_full_width_is_identity(model: Model) -> None:
    function, arguments = model.build()
    step, expected = hire.transform(function, every_site(1.0)), model.expected
    got = step(*arguments)
    report = step.report()
    blocks = [site for site in report.sites if site.kind == "ffn"]
    heads = [site for site in report.sites if site.kind == "head"]
    assert (len(blocks), len(heads)) == (expected.blocks, expected.heads), f"{report}"
    assert {(b.activation, b.gated, b.width, b.repeat) for b in blocks} <= {
        (expected.activation, expected.gated, expected.width, expected.repeat)
    }
    assert all(miss.reason and miss.weight for miss in report.misses)
    assert len(report.rewritten) == len(report.sites), f"{report}"
    dense = jax.jit(model.build()[0])(*arguments)  # built anew: some modules remember what they were traced with
    assert largest_difference(got, dense) < (2e-2 if heads[0].dtype == "bfloat16" else 1e-5)


@pytest.mark.parametrize("model", _cases())
def test_at_small_width_the_rewrite_is_the_authors_graph_with_the_rest_masked_out(model: Model) -> None:
    function, arguments = model.build()
    config = every_site(0.25, group=4)
    step = hire.transform(function, config)
    got = step(*arguments)
    report = step.report()
    assert len(report.rewritten) == len(report.sites), f"{report}"
    wanted = masked(model.build()[0], config, *arguments)
    assert largest_difference(got, wanted) < (2e-2 if report.sites[-1].dtype == "bfloat16" else 1e-5)


def test_every_model_has_a_name_of_its_own() -> None:
    names = [model.id for family in FAMILIES for model in family.MODELS]
    assert len(names) == len(set(names))


def test_the_page_of_models_is_up_to_date() -> None:
    import table

    page = table.PAGE.read_text()
    assert table.updated(page) == page, "run python tests/zoo/table.py"
