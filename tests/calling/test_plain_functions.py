"""Every way into ``transform`` runs one compiled program; no Python body runs again on a later call."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hire_compiler as hire
from tests.support.drawn import drawn

D = 8
ran: list[str] = []


def body(w: Any, x: Any) -> Any:
    """Nothing of it is rewritten."""
    ran.append(type(x).__name__)
    return jnp.tanh(x @ w) + x


class Plain:
    def __init__(self, w: jax.Array) -> None:
        self.w = w

    def step(self, x: Any) -> Any:
        return body(self.w, x)

    __call__ = step


class Nnx(nnx.Module):
    def __init__(self, w: jax.Array) -> None:
        self.w = nnx.Param(w)

    def __call__(self, x: Any) -> Any:
        return body(self.w[...], x)


class Eqx(eqx.Module):
    w: jax.Array
    activation: Any = jnp.tanh

    def __call__(self, x: Any) -> Any:
        return body(self.w, x)


WAYS = {
    "lambda": lambda w: lambda x: body(w, x),
    "partial": lambda w: functools.partial(body, w),
    "method": lambda w: Plain(w).step,
    "callable object": Plain,
    "nnx module": Nnx,
    "nnx method": lambda w: Nnx(w).__call__,
    "equinox module": Eqx,
    "partial of a jit": lambda w: functools.partial(jax.jit(body), w),
}


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("way", WAYS)
def test_a_later_call_runs_one_compiled_program(way: str, rng: np.random.Generator) -> None:
    w, x = (drawn(rng.normal(size=shape), jnp.float32) for shape in ((D, D), (2, D)))
    step = hire.transform(WAYS[way](w))
    np.testing.assert_allclose(step(x), jnp.tanh(x @ w) + x, rtol=1e-4, atol=1e-5)
    assert not step.report().rewritten
    ran.clear()
    np.testing.assert_allclose(step(x + 1), jnp.tanh((x + 1) @ w) + x + 1, rtol=1e-4, atol=1e-5)
    assert not ran
    np.testing.assert_allclose(step.lower(x).compile()(x), jnp.tanh(x @ w) + x, rtol=1e-4, atol=1e-5)


def test_a_function_with_a_callback_is_compiled_too(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(x: Any) -> Any:
        ran.append("again")
        jax.debug.print("x is {}", x)
        return x + 1

    step = hire.transform(shown)
    step(1.0)
    ran.clear()
    step(2.0)
    jax.effects_barrier()
    assert not ran
    assert "x is 2.0" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [Nnx, Eqx])
def test_new_weights_in_a_module_are_seen(kind: Any, rng: np.random.Generator) -> None:
    w, new, x = (drawn(rng.normal(size=shape), jnp.float32) for shape in ((D, D), (D, D), (2, D)))
    module = kind(w)
    step = hire.transform(module)
    np.testing.assert_allclose(step(x), jnp.tanh(x @ w) + x, rtol=1e-4, atol=1e-5)
    if kind is Nnx:
        module.w[...] = new
        np.testing.assert_allclose(step(x), jnp.tanh(x @ new) + x, rtol=1e-4, atol=1e-5)


def test_a_module_that_changes_itself_is_refused_with_a_sentence() -> None:
    class Counter(nnx.Module):
        def __init__(self) -> None:
            self.n = nnx.Variable(jnp.zeros(()))

        def __call__(self, x: Any) -> Any:
            self.n[...] += 1
            return x

    module = Counter()
    with pytest.raises(hire.CaptureError, match=r"changes self\.n.* in place.*nnx\.split"):
        hire.transform(module)(1.0)
    with pytest.raises(hire.CaptureError, match=r"closes over.*nnx\.split"):
        hire.transform(jax.jit(lambda x: module(x)))(1.0)


@pytest.mark.slow
def test_a_method_of_a_module_is_rewritten_and_its_weights_are_arguments(rng: np.random.Generator) -> None:
    class Head(nnx.Module):
        def __init__(self, w: jax.Array) -> None:
            self.w = nnx.Param(w)

        def __call__(self, x: Any) -> Any:
            return jnp.argmax(x @ self.w[...].T, axis=-1)

    w, new, x = (drawn(rng.normal(size=shape), jnp.float32) for shape in ((1024, D), (1024, D), (2, D)))
    module = Head(w)
    step = hire.transform(module)
    np.testing.assert_array_equal(step(x), jnp.argmax(x @ w.T, axis=-1))
    assert step.report().rewritten
    prepared, rest = step.split(x)
    assert len(rest) == 1
    np.testing.assert_array_equal(step(*rest, prepared=prepared), jnp.argmax(x @ w.T, axis=-1))
    module.w[...] = new
    np.testing.assert_array_equal(step(x), jnp.argmax(x @ new.T, axis=-1))


def test_static_arguments_of_jitted_methods_and_partials_stay_static(rng: np.random.Generator) -> None:
    class Model:
        @functools.partial(jax.jit, static_argnums=(0, 2))
        def step(self, x: Any, power: int) -> Any:
            return sum((x**i for i in range(power)), jnp.zeros_like(x))

    power = jax.jit(lambda n, x: sum((x**i for i in range(n)), jnp.zeros_like(x)), static_argnums=0)
    x = drawn(rng.normal(size=3), jnp.float32)
    np.testing.assert_allclose(hire.transform(Model().step)(x, 3), 1 + x + x**2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hire.transform(functools.partial(power, 3))(x), 1 + x + x**2, rtol=1e-4, atol=1e-5)
