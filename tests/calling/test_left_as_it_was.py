"""What is not rewritten runs as it was and says why; what is only inspected does not run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.entry import smooth
from tests.support.models import (
    CONFIG,
    VOCABULARY,
    WIDTH,
    D,
    array,
    decode,
    logits,
    rewritten,
    said,
    tokens,
    weights,
)


@pytest.mark.parametrize("effect", ["debug.print", "pure_callback", "io_callback"])
def test_a_function_that_calls_back_runs_as_it_was_and_says_so(
    effect: str, params: dict[str, Any], rng: np.random.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    called = []

    def chatty(params: dict[str, Any], t: jax.Array) -> jax.Array:
        if effect == "debug.print":
            jax.debug.print("token {}", t[0])
        elif effect == "pure_callback":
            t = jax.pure_callback(lambda t: called.append(1) or np.asarray(t), t, t)
        else:
            jax.experimental.io_callback(lambda t: called.append(1), None, t)
        return decode(params, t)

    step, t = hire.transform(jax.jit(chatty), CONFIG), tokens(rng)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))
    jax.effects_barrier()
    assert f"token {t[0]}" in capfd.readouterr().out if effect == "debug.print" else called
    assert not step.report().decisions
    assert re.search(
        r"chatty is not rewritten: it (calls back|has side effects).*runs exactly as it was", said(step.report())
    )


def test_a_function_without_site_runs_unchanged_and_says_why(rng: np.random.Generator) -> None:
    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    dense = jax.jit(plain)
    step, x, w = hire.transform(dense, CONFIG), array(rng, 2, D), array(rng, D, D)
    np.testing.assert_array_equal(step(x, w), dense(x, w))
    report = step.report()
    assert not report.sites
    assert len(report.misses) == 1
    assert report.misses[0].reason in said(report)
    assert "no site was found, so the function runs unchanged" in said(report)
    assert step.prepare(x, w) == {}


def test_a_function_without_site_keeps_its_gradient(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(lambda x: jnp.sum(jnp.sin(x))), CONFIG)
    x = array(rng, 5)
    np.testing.assert_allclose(jax.grad(step)(x), jnp.cos(x), rtol=1e-6)


def test_with_neither_rules_nor_exact_defaults_nothing_is_rewritten_and_every_site_says_why(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    dense, t = jax.jit(decode), tokens(rng)
    step = hire.transform(dense, hire.Config(exact=False))
    np.testing.assert_array_equal(step(params, t), dense(params, t))
    assert [decision.action for decision in step.report().decisions] == ["dense", "dense"]
    assert "no rule selects it" in said(step.report())


def test_the_callers_own_lowering_is_untouched(params: dict[str, Any], rng: np.random.Generator) -> None:
    dense, t = jax.jit(decode), tokens(rng)
    module = dense.lower(params, t).compiler_ir()
    before = str(module)
    step = hire.transform(dense, CONFIG)
    step(params, t)
    hire.inspect(dense, params, t)
    assert rewritten(step)
    assert str(module) == before
    assert str(dense.lower(params, t).compiler_ir()) == before
    np.testing.assert_array_equal(dense(params, t), np.argmax(logits(params, t), axis=-1))
    assert jax.grad(lambda up: smooth(jnp.ones((2, D)), up, params["mlp"]["down"]))(params["mlp"]["up"]).any()


def test_the_callers_arrays_and_trees_are_untouched(params: dict[str, Any], rng: np.random.Generator) -> None:
    t = tokens(rng)
    leaves, tree = jax.tree.flatten(params)
    before = [np.array(leaf) for leaf in leaves]
    hire.transform(jax.jit(decode), CONFIG)(params, t)
    after, tree_after = jax.tree.flatten(params)
    assert tree_after == tree
    assert all(one is other for one, other in zip(leaves, after, strict=True))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_inspect_takes_shapes_and_runs_nothing(params: dict[str, Any], rng: np.random.Generator) -> None:
    t = tokens(rng)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, t))
    report = hire.inspect(decode, *shapes)
    assert [site.id for site in report.sites] == ["ffn/0", "head/0"]
    assert not report.decisions
    assert hire.inspect(jax.jit(decode), params, t) == report
    assert hire.inspect(hire.transform(jax.jit(decode), CONFIG), params, t) == report


def test_inspect_reads_every_form_of_a_saved_program(
    params: dict[str, Any], rng: np.random.Generator, tmp_path: Path
) -> None:
    t = tokens(rng)
    exported = jax.export.export(jax.jit(decode))(params, t)
    forms = {
        "text.mlir": str(jax.jit(decode).lower(params, t).compiler_ir()).encode(),
        "portable.mlirbc": exported.mlir_module_serialized,
        "exported.bin": bytes(exported.serialize()),
    }
    wanted = [(s.kind, s.width, s.d, s.batch) for s in hire.inspect(decode, params, t).sites]
    assert wanted == [("ffn", WIDTH, D, 2), ("head", VOCABULARY, D, 2)]
    for name, data in forms.items():
        path = tmp_path / name
        path.write_bytes(data)
        for target in (path, str(path)):
            assert [(s.kind, s.width, s.d, s.batch) for s in hire.inspect(target).sites] == wanted
    assert [(s.kind, s.width, s.d, s.batch) for s in hire.inspect(exported).sites] == wanted


def test_a_step_in_bfloat16_runs(rng: np.random.Generator) -> None:
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), weights(rng))
    t = tokens(rng, 4)
    step = hire.transform(jax.jit(decode), CONFIG)
    dense = logits(jax.tree.map(lambda a: a.astype(jnp.float32), params), t)
    chosen = np.take_along_axis(dense, np.asarray(step(params, t))[:, None], axis=1)[:, 0]
    assert (chosen >= dense.max(axis=1) - 0.05 * np.abs(dense).max()).all()
    assert rewritten(step) == ["ffn/0", "head/0"]
