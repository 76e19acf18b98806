"""What a block is given beside its weights may be another array in every call: nothing is prepared anew for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.passes.replace import read_vectors

D, WIDTH = 16, 64
EXACT = hire.Rule(kind="ffn", predictor=hire.Exact())
PREDICTED = hire.Rule(kind="ffn", predictor=hire.Quantized(8), candidates=32, group=8)
CERTIFIED = hire.Rule(kind="ffn", predictor=hire.Quantized(8), candidates=32, group=8, certify=True)

Block = Callable[[dict[str, jax.Array], jax.Array, jax.Array], jax.Array]


def numbers(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def params() -> dict[str, jax.Array]:
    return {"up": numbers(1, D, WIDTH), "down": numbers(2, WIDTH, D)}


def block(between: Callable[[jax.Array, jax.Array], jax.Array]) -> Block:
    return lambda p, x, given: between(x @ p["up"], given) @ p["down"]


RELU = jax.nn.relu
FORMS: dict[str, tuple[Callable[[jax.Array, jax.Array], jax.Array], Callable[[int], jax.Array]]] = {
    "scale": (lambda z, s: RELU(z) * s, lambda i: jnp.float32(i + 1)),
    "temperature": (lambda z, s: RELU(z) / s, lambda i: jnp.float32(i + 3)),
    "one row": (lambda z, s: RELU(z) * s, lambda i: numbers(i, 1, WIDTH)),
    "mask": (lambda z, s: jnp.where(s, RELU(z), 0), lambda i: numbers(i, WIDTH) > 0),
    "bias": (lambda z, s: RELU(z + s), lambda i: numbers(i, WIDTH)),
    "half": (lambda z, s: RELU(z) * s[WIDTH:], lambda i: numbers(i, 2 * WIDTH)),
    "every other": (lambda z, s: RELU(z) * s[::2], lambda i: numbers(i, 2 * WIDTH)),
    "narrow": (lambda z, s: RELU(z) * s.astype(jnp.float32), lambda i: jnp.bfloat16(i + 0.5)),
    "one of five": (lambda z, s: RELU(z) * s[3], lambda i: numbers(i, 5)),
    "computed": (lambda z, s: RELU(z) * (1 / s), lambda i: jnp.float32(i + 3)),
    "threshold": (lambda z, s: jnp.where(z > s, z, 0), lambda i: jnp.float32(i)),
}


def check(form: str, rule: hire.Rule, rows: int) -> None:
    """Nothing is prepared anew, and every result is that of a step for which everything is."""
    between, given = FORMS[form]
    written, p = jax.jit(block(between)), params()
    step, anew = (hire.transform(written, hire.Config(rules=(rule,))) for _ in range(2))
    calls = [(p, numbers(10 + i, rows, D), given(i)) for i in range(3)]
    own = [step(*call) for call in calls]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_vectors, "_is_read", lambda *_: False)
        wanted = [anew(*call) for call in calls]
    np.testing.assert_array_equal(own, wanted)
    assert step._cache.built == 1
    assert anew._cache.built == len(calls)
    assert "prepared anew in 2 of 3 calls, because given changes" in str(anew.report())
    assert "prepared anew" not in str(step.report())


@pytest.mark.parametrize("form", ["scale", "half"])
def test_nothing_is_prepared_anew(form: str) -> None:
    check(form, EXACT, 1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [EXACT, PREDICTED], ids=["exact", "predicted"])
@pytest.mark.parametrize("form", FORMS)
def test_nor_for_any_form_of_a_vector(form: str, rule: hire.Rule) -> None:
    check(form, rule, 2)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["scale", "one row", "bias"])
def test_nor_in_a_certified_block(form: str) -> None:
    check(form, CERTIFIED, 1)


@pytest.mark.slow
def test_a_scale_of_the_gate_is_no_part_of_what_an_exact_block_prepares() -> None:
    step, p = hire.transform(jax.jit(block(lambda z, s: RELU(z * s))), hire.Config(rules=(EXACT,))), params()
    for i in range(3):
        x = numbers(10 + i, 1, D)
        np.testing.assert_allclose(step(p, x, jnp.float32(i - 1)), RELU(x @ p["up"] * (i - 1)) @ p["down"], 1e-4, 1e-4)
    assert step._cache.built == 1


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_scale_that_is_no_number_gives_what_dense_gives(value: float) -> None:
    written, p, x = jax.jit(block(lambda z, s: RELU(z * s))), params(), numbers(10, 1, D)
    step = hire.transform(written, hire.Config(rules=(EXACT,)))
    np.testing.assert_array_equal(step(p, x, jnp.float32(value)), written(p, x, jnp.float32(value)))


@pytest.mark.slow
def test_a_scale_that_a_predictor_copies_is_prepared_anew_and_the_report_says_so() -> None:
    step, p = hire.transform(jax.jit(block(lambda z, s: RELU(z * s))), hire.Config(rules=(PREDICTED,))), params()
    for i in range(4):
        step(p, numbers(10 + i, 1, D), jnp.float32(i + 1))
    assert "prepared anew in 3 of 4 calls, because given changes" in str(step.report())


@pytest.mark.slow
def test_layers_have_vectors_of_their_own() -> None:
    def layers(p: dict[str, jax.Array], x: jax.Array, bias: jax.Array, scale: jax.Array) -> jax.Array:
        def body(x: jax.Array, own: Any) -> tuple[jax.Array, None]:
            up, down, bias, scale = own
            return x + RELU(x @ up + bias) * scale @ down, None

        return jax.lax.scan(body, x, (p["up"], p["down"], bias, scale))[0]

    p = {"up": numbers(1, 3, D, WIDTH), "down": numbers(2, 3, WIDTH, D)}
    step = hire.transform(jax.jit(layers), hire.Config(rules=(EXACT,)))
    for i in range(3):
        given = numbers(10 + i, 1, D), numbers(20 + i, 3, WIDTH), numbers(30 + i, 3)
        np.testing.assert_allclose(step(p, *given), layers(p, *given), rtol=1e-3, atol=1e-3)
    assert len(step.report().sites) == 1
    assert step._cache.built == 1


def test_blocks_that_differ_in_how_a_vector_lies_share_no_code() -> None:
    """One bias is the first half of an array, the other its second."""

    def two(p: dict[str, jax.Array], x: jax.Array, both: jax.Array) -> jax.Array:
        for own in (both[:WIDTH], both[WIDTH:]):
            x = x + RELU(x @ p["up"] + own) @ p["down"]
        return x

    step, x, both = hire.transform(jax.jit(two), hire.Config(rules=(EXACT,))), numbers(3, 1, D), numbers(4, 2 * WIDTH)
    np.testing.assert_allclose(step(params(), x, both), two(params(), x, both), rtol=1e-3, atol=1e-3)
    assert len(step.report().sites) == 2
