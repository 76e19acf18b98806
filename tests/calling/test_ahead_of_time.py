"""Ahead of time: a transformed function has the stages of ``jax.jit``, and what they compile is called like it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

N, D = 1024, 16


def choose(w: Any, x: Any, k: int) -> Any:
    return {"best": jax.lax.top_k(x @ w.T, k)[1], "x": x + 1}


JITTED = jax.jit(choose, static_argnums=2)


@pytest.fixture
def operands(rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    return drawn(rng.normal(size=(N, D)), jnp.float32), drawn(rng.normal(size=(2, D)), jnp.float32)


def test_what_is_compiled_is_called_like_the_original(operands: Any) -> None:
    step, want = hire.transform(JITTED), JITTED.lower(*operands, 3).compile()(*operands)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands]
    traced = step.trace(*shapes, 3)
    lowered = traced.lower()
    compiled = lowered.compile()
    for stage, kind in ((traced, jax.stages.Traced), (lowered, jax.stages.Lowered), (compiled, jax.stages.Compiled)):
        assert isinstance(stage, kind)
        assert stage.out_tree == jax.tree.structure(want)
    assert compiled.memory_analysis() is not None
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, compiled(*operands), want)
    prepared = step.prepare(*operands, 3)
    jax.tree.map(np.testing.assert_array_equal, compiled(*operands, prepared=prepared), want)
    assert step.eval_shape(*shapes, 3)["best"] == jax.ShapeDtypeStruct((2, 3), jnp.int32)


def test_other_arguments_than_it_was_lowered_for_are_refused_with_a_sentence(operands: Any) -> None:
    w, x = operands
    compiled = hire.transform(JITTED).lower(w, x, 3).compile()
    with pytest.raises(hire.CaptureError, match=r"takes 2 positional arguments and got 3.*static"):
        compiled(w, x, 3)
    with pytest.raises(hire.CaptureError, match=r"lowered for float32\[2,16\].*called with float32\[5,16\]"):
        compiled(w, jnp.ones((5, D)))
    with pytest.raises(hire.CaptureError, match="structure"):
        compiled(w, [x])


def test_new_weights_of_a_compiled_step_are_prepared(operands: Any) -> None:
    w, x = operands
    compiled = hire.transform(JITTED).lower(w, x, 3).compile()
    for weights in (w, -w):
        np.testing.assert_array_equal(compiled(weights, x)["best"], JITTED(weights, x, 3)["best"])


def test_a_function_without_site_keeps_its_own_stages(operands: Any) -> None:
    _, x = operands
    plain = jax.jit(lambda x: jnp.sin(x))
    step = hire.transform(plain)
    assert str(step.trace(x).jaxpr) == str(plain.trace(x).jaxpr)
    np.testing.assert_array_equal(step.lower(x).compile()(x), plain(x))


@pytest.mark.parametrize("stage", ["trace", "lower", "compile", "export"])
def test_what_is_fixed_already_is_refused_with_the_way_out(stage: str, operands: Any) -> None:
    _, x = operands
    function = jax.jit(jnp.sin)
    fixed: Any = {
        "trace": lambda: function.trace(x),
        "lower": lambda: function.lower(x),
        "compile": lambda: function.lower(x).compile(),
        "export": lambda: jax.export.export(function)(x),
    }[stage]()
    with pytest.raises(hire.CaptureError, match=r"transform|hire\.rewrite"):
        hire.transform(fixed)
