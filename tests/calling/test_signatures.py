"""A signature is compiled once; the step's program can be looked at."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
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
    logits,
    said,
    tokens,
    weights,
)


def test_a_second_call_neither_traces_nor_compiles(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    traced = []

    def counted(params: dict[str, Any], t: jax.Array) -> jax.Array:
        traced.append(t.shape)
        return decode(params, t)

    step, batches = hire.transform(jax.jit(counted), CONFIG), [tokens(rng) for _ in range(3)]
    step(params, batches[0])
    assert traced == [(2,)]
    assert compilations
    compilations.clear()
    for t in batches:
        step(params, t)
    assert traced == [(2,)]
    assert not compilations


def test_the_step_is_compiled_once_for_every_signature(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    batches = {b: tokens(rng, b) for b in (1, 2, 5)}
    prepared = step.prepare(params, batches[1])
    for t in batches.values():
        compilations.clear()
        step(params, t, prepared=prepared)
        assert len(compilations) == 1
    compilations.clear()
    for t in batches.values():
        step(params, t, prepared=prepared)
        step(params, t)
    assert not compilations


def test_new_values_of_the_weights_do_not_compile_again(
    compilations: list[str], params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    step(params, t)
    others = weights(rng)
    compilations.clear()
    np.testing.assert_array_equal(step(others, t), np.argmax(logits(others, t), axis=-1))
    assert not compilations


def test_another_dtype_or_shape_is_another_signature(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head), hire.Config(rules=(HEAD,)))
    for dtype in (jnp.float32, jnp.bfloat16):
        for batch in (1, 3):
            x, w = array(rng, batch, D, dtype=dtype), array(rng, VOCABULARY, D, dtype=dtype)
            assert step(x, w).shape == (batch,)
            (site,) = step.report().sites
            assert (site.batch, site.dtype) == (batch, jnp.dtype(dtype).name)


def test_the_report_is_that_of_the_last_call_or_of_given_arguments(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    assert "not called yet" in said(step.report())
    first, second = tokens(rng, 1), tokens(rng, 4)
    step(params, first)
    step(params, second)
    assert step.report().sites[0].batch == 4
    step(params, first)
    assert step.report().sites[0].batch == 1
    assert step.report(params, second).sites[0].batch == 4


def test_lower_gives_the_step_program(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    lowered = step.lower(params, t)
    assert isinstance(lowered, jax.stages.Lowered)
    text = lowered.as_text()
    assert "hire_site" in text
    assert f"tensor<{VOCABULARY}x{D}xi8>" in text  # the int8 copy is an argument
    assert lowered.compile().cost_analysis() is not None


def test_lower_takes_shapes_alone(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, t))
    assert step.lower(*shapes).as_text() == step.lower(params, t).as_text()


def test_a_weight_that_only_a_site_reads_is_no_argument_of_the_step(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(ffn), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, WIDTH, D)
    main = re.search(r"func public @main\((.*?)\) ->", step.lower(x, up, down).as_text(), re.DOTALL)
    assert main is not None
    assert f"tensor<{D}x{WIDTH}xf32>" not in main[1]  # up is prepared as rows of neurons …
    assert main[1].count(f"tensor<{WIDTH}x{D}xf32>") == 2  # … and down is read from its own argument


def test_lowering_a_function_without_site_gives_its_own_program(rng: np.random.Generator) -> None:
    dense = jax.jit(lambda x: jnp.sin(x) + 1)
    step, x = hire.transform(dense, CONFIG), array(rng, 3)
    assert step.lower(x).as_text() == dense.lower(x).as_text()
