"""A step can be rewritten for another platform than the one it is rewritten on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire

V, D = 4096, 64
WEIGHT = jax.ShapeDtypeStruct((V, D), jnp.float32)
X = jax.ShapeDtypeStruct((1, D), jnp.float32)


def greedy(w: jax.Array, x: jax.Array) -> jax.Array:
    scale = jax.lax.platform_dependent(x, cpu=lambda x: x, tpu=lambda x: x * 3.0, default=lambda x: x * 2.0)
    return jnp.argmax(jnp.dot(scale, w.T, precision="highest"), axis=-1)


def rewritten(platform: str | None) -> hire.HireFunction:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64)
    return hire.transform(jax.jit(greedy), hire.Config(rules=(rule,)), platform=platform)


def test_the_program_is_that_of_the_platform() -> None:
    step = rewritten("tpu")
    assert step.report(WEIGHT, X).rewritten
    text = step.lower(WEIGHT, X).as_text()
    assert "3.000000e+00" in text
    assert "2.000000e+00" not in text
    exported = step.export(WEIGHT, X)
    assert exported.platforms == ("tpu",)
    assert [aval.shape for aval in exported.in_avals][:2] == [(V, D), (1, D)]


def test_calling_it_here_says_where_it_runs() -> None:
    values = np.zeros((V, D), np.float32), np.zeros((1, D), np.float32)
    with pytest.raises(hire.CaptureError, match="rewritten for platform 'tpu' and this process runs on 'cpu'"):
        rewritten("tpu")(*values)


def test_weights_are_prepared_anywhere() -> None:
    w = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
    (prepared,) = rewritten("tpu").prepare(w, X).values()
    assert prepared["q"].shape == (V, D)


def test_exported_for_here_it_runs_here() -> None:
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(V, D)).astype(np.float32), rng.normal(size=(1, D)).astype(np.float32)
    step = rewritten("cpu")
    exported = step.export(w, x)
    (prepared,) = step.prepare(w, x).values()
    flat = [prepared[name] for name in sorted(prepared)]
    (token,) = jax.jit(exported.call)(w, x, *flat)
    assert int(token[0]) == int(step(w, x)[0]) == int(greedy(w, x)[0])


def test_a_function_of_which_nothing_is_rewritten_is_exported_as_it_is() -> None:
    step = hire.transform(jax.jit(lambda x: x + 1), platform="tpu")
    assert step.export(X).platforms == ("tpu",)
    assert "add" in step.lower(X).as_text()


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(hire.ConfigError, match="platform 'npu' is unknown"):
        hire.transform(greedy, platform="npu")
