"""Enclosures hold what XLA computes: every elementwise function, every rounding that it keeps or drops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import lax

import hire_compiler as hire
from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.proofs.enclosure import CPU_UNITS, Unbounded, arithmetic_for, enclose, why_unbounded
from hire_compiler.proofs.interval import Enclosure, around, point
from hire_compiler.runtime.target import target_for

CPU = arithmetic_for(target_for("cpu"))
Array = np.ndarray


def spread(low: float, high: float, count: int = 200_000) -> Array:
    rng = np.random.default_rng(0)
    return np.unique(rng.uniform(low, high, count).astype(np.float32))


def magnitudes(low: int, high: int, *, signed: bool = True) -> Array:
    sizes = np.exp2(np.random.default_rng(1).uniform(low, high, 200_000)).astype(np.float32)
    return np.concatenate([sizes, -sizes]) if signed else sizes


# What XLA calls, the function in wider numbers, and inputs.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Array], Array], Array]] = {
    "tanh": (jnp.tanh, np.tanh, np.concatenate([spread(-20, 20), magnitudes(-40, 4)])),
    "logistic": (lax.logistic, lambda x: 1 / (1 + np.exp(-x)), np.concatenate([spread(-80, 80), magnitudes(-40, 4)])),
    "exponential": (jnp.exp, np.exp, np.concatenate([spread(-86, 88), magnitudes(-40, 4)])),
    "exponential_minus_one": (jnp.expm1, np.expm1, np.concatenate([spread(-86, 88), magnitudes(-40, 4)])),
    "log": (jnp.log, np.log, np.concatenate([magnitudes(-120, 120, signed=False), spread(0.5, 2)])),
    "log_plus_one": (jnp.log1p, np.log1p, np.concatenate([magnitudes(-60, 100, signed=False), spread(-0.99, 2)])),
    "sqrt": (jnp.sqrt, np.sqrt, magnitudes(-120, 120, signed=False)),
    "rsqrt": (lax.rsqrt, lambda x: 1 / np.sqrt(x), magnitudes(-120, 120, signed=False)),
    "cbrt": (lax.cbrt, np.cbrt, magnitudes(-120, 120)),
    "chlo.erf": (lax.erf, scipy.special.erf, np.concatenate([spread(-5, 5), magnitudes(-40, 2)])),
    "chlo.erfc": (lax.erfc, scipy.special.erfc, spread(-5, 5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_twice_the_error_of_every_function_is_less_than_is_allowed_for_it(name: str) -> None:
    function, truth, x = FUNCTIONS[name]
    got, wanted = np.asarray(jax.jit(function)(x), np.longdouble), truth(x.astype(np.float64)).astype(np.longdouble)
    usual = np.isfinite(got) & (np.abs(wanted) > 2.0**-126)
    error = np.abs(got[usual] - wanted[usual]) / np.abs(wanted[usual])
    assert 2 * float(error.max()) / 2.0**-23 <= CPU_UNITS[name]


def expression(*code: tuple[str, tuple[int, ...], Any], inputs: int = 1, dtype: str = "float32") -> Expression:
    made = tuple(Instruction(op, args, dtype, value) for op, args, value in code)
    return Expression(inputs, made, inputs + len(made) - 1)


CODE = {
    "softcap": expression(
        ("constant", (), 30.0), ("divide", (0, 1), None), ("tanh", (2,), None), ("multiply", (3, 1), None),
    ),
    "penalty": expression(
        ("constant", (), 0.0), ("constant", (), 1.2), ("compare", (0, 1), "GT"), ("divide", (0, 2), None),
        ("multiply", (0, 2), None), ("select", (3, 4, 5), None),
    ),
    "fold": expression(("abs", (0,), None), ("negate", (1,), None)),
    "square": expression(("multiply", (0, 0), None)),
    "silu": expression(("logistic", (0,), None), ("multiply", (0, 1), None)),
    "clamped": expression(("constant", (), -2.0), ("constant", (), 3.0), ("clamp", (1, 0, 2), None)),
    "quotient": expression(("constant", (), 1.5), ("abs", (0,), None), ("add", (1, 2), None), ("divide", (0, 3), None)),
}  # fmt: skip


def retyped(code: Expression, dtype: str) -> Expression:
    made = [Instruction(i.op, i.args, "bool" if i.op == "compare" else dtype, i.value) for i in code.instructions]
    return Expression(code.inputs, tuple(made), code.output)


@pytest.mark.diagonal
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CODE)
def test_everything_between_the_bounds_comes_out_between_the_bounds(
    name: str, dtype: str, rng: np.random.Generator
) -> None:
    code = retyped(CODE[name], dtype)
    low = (rng.normal(size=4000) * np.exp(rng.normal(size=4000) * 2)).astype(np.float32)
    high = low + np.abs(rng.normal(size=4000) * np.exp(rng.normal(size=4000) * 3 - 3)).astype(np.float32)
    made = jax.jit(lambda a, b: tuple(vars(enclose(code, [Enclosure(a, b)], [dtype], CPU)).values()))(low, high)
    dense = jax.jit(lambda z: code.evaluate([z.astype(dtype)], exact=True))
    for share in (0.0, 0.3, 0.5, 0.9, 1.0):
        inside = np.clip(low + (high - low) * np.float32(share), low, high)
        got = np.asarray(dense(inside), np.float32)
        assert (got >= made[0]).all()
        assert (got <= made[1]).all()


def test_a_number_that_may_be_nothing_fails_every_comparison() -> None:
    code = expression(("log", (0,), None))
    made = enclose(code, [around(jnp.asarray([1.0, 0.1]), 0.5)], ["float32"], CPU)
    assert bool(made.low[0] < made.high[0])
    assert not bool(made.low[1] > -jnp.inf)  # the logarithm of a negative number


def test_code_without_bounds_is_named() -> None:
    code = expression(("tanh", (0,), None), ("sine", (1,), None))
    assert why_unbounded(code) == "sine"
    with pytest.raises(Unbounded, match="sine"):
        enclose(code, [point(jnp.ones(3))], ["float32"], CPU)


def test_minus_infinity_of_a_mask_stays_what_it_is() -> None:
    code = expression(("add", (0, 1), None), inputs=2)
    mask = jnp.asarray([0.0, -jnp.inf])
    made = enclose(code, [around(jnp.asarray([2.0, 2.0]), 0.1), point(mask)], ["float32"] * 2, CPU)
    assert made.low[1] == made.high[1] == -jnp.inf
    assert made.low[0] < 2 < made.high[0]


BF16 = jnp.bfloat16
FORMS: dict[str, Callable[..., Any]] = {
    "read as bfloat16": lambda z: z,
    "widened at once": lambda z: z.astype(jnp.float32),
    "widened behind a reshape": lambda z: z.reshape(len(z), 1, -1).astype(jnp.float32)[:, 0],
    "widened behind a slice of the batch": lambda z: z[:1].astype(jnp.float32),
    "a bias, then widened": lambda z: (z + BF16(0.125)).astype(jnp.float32),
    "a softcap": lambda z: 512 * jnp.tanh(z / 512),
    "a softcap, then widened": lambda z: (512 * jnp.tanh(z / 512)).astype(jnp.float32),
    "widened, then a softcap": lambda z: 512 * jnp.tanh(z.astype(jnp.float32) / 512),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("batch", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("batched", [False, True], ids=["[b, d]", "[b, 1, d]"])
@pytest.mark.parametrize("name", FORMS)
def test_roundings_to_bfloat16_are_kept_or_dropped_as_xla_does(
    name: str, batched: bool, batch: int, rng: np.random.Generator
) -> None:
    """Logits are whole numbers that bfloat16 cannot hold: whether they are rounded decides who wins."""
    tail = FORMS[name]

    def head(w: jax.Array, x: jax.Array) -> Any:
        return jnp.argmax(tail((x[:, None] @ w)[:, 0] if batched else x @ w), axis=-1)

    rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=128, certify="strict")
    step, dense = hire.transform(jax.jit(head), hire.Config(rules=(rule,))), jax.jit(head)
    w = jnp.asarray(rng.integers(-4, 5, size=(64, 1024)), BF16)
    for _ in range(30):
        x = jnp.asarray(rng.integers(-4, 5, size=(batch, 64)), BF16)
        np.testing.assert_array_equal(step(w, x), dense(w, x))
    (certificate,) = step.report().certificates
    assert certificate.proven > 0.1 * certificate.rows
