"""Whatever the caller has set in ``jax.config``, the rewritten step answers as JAX does under the same settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.models import said

N, D, WIDTH = 1024, 32, 128

LOW_RANK = hire.Config(
    rules=(
        hire.Rule(kind="head", predictor=hire.LowRank(rank=8), candidates=N),
        hire.Rule(kind="ffn", predictor=hire.LowRank(rank=8), density=1.0),
    )
)
QUANTIZED = hire.Config(
    rules=(
        hire.Rule(kind="head", predictor=hire.Quantized(bits=4, columns=16), candidates=N),
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0, certify=True, group=1),
    )
)


@contextlib.contextmanager
def flags(**values: Any) -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


SETTINGS: dict[str, Callable[[], Any]] = {
    "x64": lambda: flags(jax_enable_x64=True),
    "x64 and strict promotion": lambda: flags(jax_enable_x64=True, jax_numpy_dtype_promotion="strict"),
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "disable_jit": jax.disable_jit,
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "matmul precision": lambda: jax.default_matmul_precision("highest"),
    "prng": lambda: flags(jax_default_prng_impl="rbg", jax_threefry_partitionable=False),
    "leaks": lambda: jax.check_tracer_leaks(True),
    "default device": lambda: jax.default_device(jax.devices()[0]),
}


def greedy(up: Any, down: Any, w: Any, x: Any) -> Any:
    h = x + jnp.matmul(jax.nn.relu(jnp.matmul(x, up)), down)
    return jnp.argmax(jnp.matmul(h, w.T), axis=-1)


def operands(rng: np.random.Generator) -> tuple[jax.Array, ...]:
    shapes = ((D, WIDTH), (WIDTH, D), (N, D), (2, D))
    return tuple(drawn(rng.normal(size=shape), jnp.float32) for shape in shapes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "config"),
    [
        *((setting, None) for setting in SETTINGS),
        ("x64 and strict promotion", LOW_RANK),
        ("x64 and strict promotion", QUANTIZED),
        ("rank_promotion", LOW_RANK),
        ("rank_promotion", QUANTIZED),
    ],
)
def test_the_answer_and_its_type_are_those_of_jax(setting: str, config: Any, rng: np.random.Generator) -> None:
    arguments = operands(rng)
    with SETTINGS[setting]():
        step = hire.transform(jax.jit(greedy), config)
        got, want = step(*arguments), jax.jit(greedy)(*arguments)
        assert step.report().rewritten
    assert got.dtype == want.dtype == (jnp.int64 if "x64" in setting else jnp.int32)
    np.testing.assert_array_equal(got, want)


def test_a_flag_changed_between_calls_is_another_program(rng: np.random.Generator) -> None:
    _, _, w, x = operands(rng)
    step = hire.transform(jax.jit(lambda w, x: jnp.argmax(x @ w.T, axis=-1)), hire.Config(exact=False))
    assert step(w, x).dtype == jnp.int32
    with flags(jax_enable_x64=True):
        assert step(w, x).dtype == jnp.int64
    assert step(w, x).dtype == jnp.int32
    assert len(step._steps._steps) == 2


def test_under_x64_weights_of_64_bits_stay_dense(rng: np.random.Generator) -> None:
    with flags(jax_enable_x64=True):
        w, x = jnp.asarray(rng.normal(size=(N, D))), drawn(rng.normal(size=(2, D)), jnp.float32)
        assert w.dtype == jnp.float64
        narrowed = jax.jit(lambda w, x: jnp.argmax(x @ w.astype(jnp.float32).T, -1))
        step = hire.transform(narrowed)
        np.testing.assert_array_equal(step(w, x), narrowed(w, x))
        assert "float64" in said(step.report())


@pytest.mark.parametrize("wide", [jnp.float64, jnp.int64])
def test_logits_compared_in_64_bits_stay_dense(wide: Any, rng: np.random.Generator) -> None:
    with flags(jax_enable_x64=True):
        _, _, w, x = operands(rng)
        bias = drawn(rng.normal(size=N), wide)
        step = hire.transform(jax.jit(lambda w, b, x: jnp.argmax((x @ w.T).astype(wide) + b, -1)))
        np.testing.assert_array_equal(step(w, bias, x), jnp.argmax((x @ w.T).astype(wide) + bias, -1))
        assert not step.report().rewritten


@pytest.mark.slow
def test_debug_nans_looks_at_the_authors_results_only(rng: np.random.Generator) -> None:
    *weights, x = operands(rng)
    step, bad = hire.transform(jax.jit(greedy)), x.at[0, 0].set(jnp.nan)
    with jax.debug_nans(True):
        np.testing.assert_array_equal(step(*weights, bad), jax.jit(greedy)(*weights, bad))


@pytest.mark.parametrize(("setting", "value"), [(jax.debug_nans, np.nan), (jax.debug_infs, np.inf)])
def test_debug_nans_and_infs_raise_what_jax_raises(setting: Any, value: float, rng: np.random.Generator) -> None:
    def logits(w: Any, x: Any) -> Any:
        return x @ w.T

    _, _, w, x = operands(rng)
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=N)
    step = hire.transform(jax.jit(logits), hire.Config(rules=(rule,)))
    assert step(w, x).shape == (2, N)
    bad = x.at[0, 0].set(value)  # under the setting this would raise by itself
    with setting(True):
        assert step(w, x).shape == (2, N)
        with pytest.raises(FloatingPointError):
            step(w, bad)


def test_a_compiled_primitive_can_be_evaluated_outside_of_any_jit(rng: np.random.Generator) -> None:
    arguments = operands(rng)
    step = hire.transform(jax.jit(greedy))
    prepared = step.prepare(*arguments)
    closed = jax.make_jaxpr(lambda *a: step(*a, prepared=prepared))(*arguments)
    with jax.disable_jit():
        (got,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *arguments)
    np.testing.assert_array_equal(got, jax.jit(greedy)(*arguments))


@pytest.mark.slow
def test_calibration_runs_under_the_callers_settings(rng: np.random.Generator) -> None:
    *weights, x = operands(rng)
    config = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.LowRank(rank=8), density=0.5),))
    with flags(jax_enable_x64=True), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        learned = hire.calibrate(jax.jit(greedy), [(*weights, x)], config=config)
        assert learned.trials
        step = hire.transform(jax.jit(greedy), config, calibration=learned)
        assert step(*weights, x).shape == (2,)
