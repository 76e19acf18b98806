"""``jax.jit(f, compiler_options=…)``: traced without them, compiled with them; fast math is noticed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.proofs.fast_math import fast_math_reason
from tests.support.drawn import drawn
from tests.support.models import said

N, D = 1024, 32
OPTIONS = {"xla_cpu_enable_fast_min_max": False, "xla_embed_ir_in_executable": True}


def head(w: Any, x: Any) -> Any:
    return jnp.argmax(x @ w.T, axis=-1)


class Model:
    """Jitted methods with options."""

    def __init__(self, w: jax.Array) -> None:
        self.w = w

    @functools.partial(jax.jit, static_argnums=0, compiler_options=OPTIONS)
    def step(self, x: Any) -> Any:
        return head(self.w, x)

    @functools.partial(jax.jit, static_argnums=(0, 2), compiler_options=OPTIONS)
    def __call__(self, x: Any, k: int) -> Any:
        return jax.lax.top_k(x @ self.w.T, k)[1]


def operands(rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    return tuple(drawn(rng.normal(size=shape), jnp.float32) for shape in ((N, D), (2, D)))  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["partial", "method", "callable", "sampler", "unchanged", "static"])
def test_every_way_to_hand_options_in_works(way: str, rng: np.random.Generator) -> None:
    w, x = operands(rng)
    jitted = jax.jit(head, compiler_options=OPTIONS)
    logits = jax.jit(lambda w, x: x @ w.T, compiler_options=OPTIONS)
    static = jax.jit(lambda k, w, x: jax.lax.top_k(x @ w.T, k)[1], static_argnums=0, compiler_options=OPTIONS)
    function, arguments = {
        "function": (jitted, (w, x)),
        "partial": (functools.partial(jitted, w), (x,)),
        "method": (Model(w).step, (x,)),
        "callable": (Model(w), (x, 3)),
        "sampler": (hire.with_sampler(logits, "greedy"), (w, x)),
        "unchanged": (functools.partial(jax.jit(jnp.sin, compiler_options=OPTIONS)), (x,)),
        "static": (functools.partial(static, 3), (w, x)),
    }[way]
    want = {"callable": jax.lax.top_k(x @ w.T, 3)[1], "static": jax.lax.top_k(x @ w.T, 3)[1], "unchanged": jnp.sin(x)}
    step = hire.transform(function)
    np.testing.assert_allclose(step(*arguments), want.get(way, head(w, x)), rtol=1e-6)
    assert bool(step.report().rewritten) == (way != "unchanged")
    assert hire.inspect(function, *arguments).sites == step.report().sites
    assert step.lower(*arguments).compile() is not None
    assert step.export(*arguments) is not None


def test_the_rewritten_step_is_compiled_with_the_options(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head, compiler_options={"xla_no_such_option": True}))
    with pytest.raises(Exception, match="xla_no_such_option"):
        step(*operands(rng))


@pytest.mark.slow
def test_options_keep_the_shardings_and_donation_beside_them(rng: np.random.Generator) -> None:
    w, x = operands(rng)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step = hire.transform(
        jax.jit(lambda w, x, c: (head(w, x), c + 1), donate_argnums=2, out_shardings=place, compiler_options=OPTIONS)
    )
    cache = jnp.zeros(4)
    best, new = step(w, x, cache)
    assert cache.is_deleted()
    np.testing.assert_array_equal(best, head(w, x))
    np.testing.assert_array_equal(new, np.ones(4))


def test_under_fast_math_nothing_is_certified(rng: np.random.Generator) -> None:
    step, (w, x) = hire.transform(jax.jit(head, compiler_options={"xla_cpu_enable_fast_math": True})), operands(rng)
    np.testing.assert_array_equal(step(w, x), head(w, x))
    assert not step.report().rewritten
    assert "xla_cpu_enable_fast_math is set" in said(step.report())
    rule = hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64, certify=True)
    asked = hire.transform(
        jax.jit(head, compiler_options={"xla_cpu_enable_fast_math": "true"}), hire.Config(rules=(rule,))
    )
    with pytest.raises(hire.ConfigError, match="xla_cpu_enable_fast_math"):
        asked(w, x)


def test_fast_math_in_the_environment_is_noticed_too(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert not hire.transform(jax.jit(head)).report(*operands(rng)).rewritten
    off = jax.jit(head, compiler_options={"xla_cpu_enable_fast_math": False})
    assert hire.transform(off).report(*operands(rng)).rewritten


@pytest.mark.parametrize(
    ("flags", "options", "named"),
    [
        ("", {}, ""),
        ("--xla_cpu_enable_fast_math=true", {}, "xla_cpu_enable_fast_math"),
        ("--xla_cpu_enable_fast_math", {}, "xla_cpu_enable_fast_math"),
        ("--xla_cpu_enable_fast_math=1 --xla_dump_to=/x", {}, "xla_cpu_enable_fast_math"),
        ("--xla_cpu_enable_fast_math=true --xla_cpu_enable_fast_math=false", {}, ""),
        ("--xla_cpu_enable_fast_math=true", {"xla_cpu_enable_fast_math": False}, ""),
        ("--xla_cpu_enable_fast_math=false", {"xla_cpu_enable_fast_math": "True"}, "xla_cpu_enable_fast_math"),
        ("--xla_gpu_enable_fast_min_max=true", {}, "xla_gpu_enable_fast_min_max"),
        ("--xla_force_host_platform_device_count=8", {"xla_embed_ir_in_executable": True}, ""),
    ],
)
def test_the_last_word_counts_and_options_outdo_flags(flags: str, options: dict[str, Any], named: str) -> None:
    reason = fast_math_reason(options, flags)
    assert reason.startswith(named)
    assert bool(reason) == bool(named)


def test_flags_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "flags").write_text("--xla_dump_to=/x\n--xla_cpu_enable_fast_math=true\n")
    assert "fast_math" in fast_math_reason({}, str(tmp_path / "flags"))
