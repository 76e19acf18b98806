"""`Config(unused=…)`: outputs that nobody reads come back as NaN, and the head is certified."""

from __future__ import annotations

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.offline.verify import verify
from tests.support.drawn import drawn

V, D = 2048, 32
RULE = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict")


def step(w: jax.Array, x: jax.Array) -> dict[str, Any]:
    z = x @ w.T
    return {"token": jnp.argmax(z, axis=-1), "logits": z, "norm": jax.nn.logsumexp(z, axis=-1)}


@pytest.mark.slow
def test_outputs_that_nobody_reads_are_nan_and_the_token_is_that_of_dense(rng: np.random.Generator) -> None:
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((V, D), (3, D)))
    fast = hire.transform(step, hire.Config(rules=(RULE,), unused=(r"\['logits'\]", "norm")))
    got, wanted = fast(w, x), step(w, x)
    np.testing.assert_array_equal(got["token"], wanted["token"])
    for name in ("logits", "norm"):
        assert got[name].shape == wanted[name].shape
        assert jnp.isnan(got[name]).all()
    assert len(fast.report().rewritten) == 1
    assert any("['logits'] is not read" in note for note in fast.report().notes)


@pytest.mark.slow
def test_of_outputs_that_nobody_reads_a_comparison_says_nothing() -> None:
    w, x = (drawn(np.random.default_rng(3).normal(size=size), jnp.float32) for size in ((V, D), (3, D)))
    found = hire.compare(hire.transform(step, hire.Config(rules=(RULE,), unused=("logits", "norm"))), w, x, rounds=1)
    assert [(output.name, output.equal) for output in found.outputs] == [("['token']", 3)]


@pytest.mark.slow
def test_outputs_of_an_export_have_names_too(rng: np.random.Generator) -> None:
    """Of a file without Python code the report names what blocks the head, and takes that name back."""
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((V, D), (3, D)))
    types = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (w, x))
    exported = jax.export.export(jax.jit(step), platforms=["cpu"])(*types)
    config = hire.Config(rules=(RULE,), unused=(r"\['logits'\]", "norm"))
    artifact = hire.rewrite(exported, config, weights={"w": w}, platforms=["cpu"])
    got = artifact(x)
    np.testing.assert_array_equal(got["token"], step(w, x)["token"])
    assert jnp.isnan(got["logits"]).all()
    found = verify(artifact, exported, weights={"w": w}, trials=1)
    assert not found.failures
    assert [difference.name for difference in found.differences] == ["['token']"]


def test_the_report_names_the_output_and_the_line_that_unlocks_it(rng: np.random.Generator) -> None:
    fast = hire.transform(step)
    fast(jnp.ones((V, D)), jnp.ones((3, D)))
    (decision,) = fast.report().decisions
    assert "as ['logits']" in decision.reason
    assert "Config(unused=(" in decision.reason


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nothing", "fits no output; there are ['logits'], ['norm'], ['token']"), ("token", "of type int32")],
)
def test_a_name_of_no_output_or_of_whole_numbers_is_refused(pattern: str, message: str) -> None:
    fast = hire.transform(step, hire.Config(unused=(pattern,)))
    with pytest.raises(hire.ConfigError) as caught:
        fast(jnp.ones((V, D)), jnp.ones((3, D)))
    assert message in str(caught.value)


def test_what_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(hire.ConfigError, match="no regular expression"):
        hire.Config(unused=("[",))
