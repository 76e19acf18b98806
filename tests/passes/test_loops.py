"""Layers under loops: whatever form the loop takes, every layer uses its own prepared weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.models import VOCABULARY, WIDTH, D, array

LAYERS = 4
Program = Callable[..., Any]


def block(h: jax.Array, up: jax.Array, down: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.tanh(h + jax.nn.relu(h @ up + bias) @ down)


def pick(stack: jax.Array, i: Any, axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stack, i, axis, keepdims=False)


def scan(options: dict[str, Any], wrap: Callable[..., Any] = lambda f: f) -> Program:
    body = wrap(lambda h, p: (block(h, *p), None))
    return lambda x, *stacks: jax.lax.scan(body, x, stacks, **options)[0]


def fori(index: Callable[[Any], Any] = lambda i: i, first: int = 0, stop: Any = LAYERS) -> Program:
    def program(x: jax.Array, *stacks: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(first, stop, lambda i, h: block(h, *(pick(s, index(i)) for s in stacks)), x)

    return program


def while_loop(x: jax.Array, *stacks: jax.Array) -> jax.Array:
    def body(state: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        i, h = state
        return i + 1, block(h, *(pick(s, i) for s in stacks))

    return jax.lax.while_loop(lambda s: s[0] < LAYERS, body, (0, x))[1]


def plain_indexing(x: jax.Array, *stacks: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, LAYERS, lambda i, h: block(h, *(s[i] for s in stacks)), x)


def two_a_trip(x: jax.Array, *stacks: jax.Array) -> jax.Array:
    def body(h: jax.Array, p: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return block(block(h, *(s[0] for s in p)), *(s[1] for s in p)), None

    return jax.lax.scan(body, x, [s.reshape(LAYERS // 2, 2, *s.shape[1:]) for s in stacks])[0]


def token_loop(x: jax.Array, *stacks: jax.Array) -> jax.Array:
    layers = scan({})
    return jax.lax.scan(lambda h, _: (layers(h, *stacks), h), x, length=3)[1]


def branch_in_a_loop(x: jax.Array, *stacks: jax.Array) -> jax.Array:
    def body(h: jax.Array, p: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return jax.lax.cond(h[0, 0] > 0, lambda h: block(h, *p), lambda h: block(-h, *p), h), None

    return jax.lax.scan(body, x, stacks)[0]


PROGRAMS: dict[str, tuple[Program, int]] = {
    "scan": (scan({}), LAYERS),
    "scan backwards": (scan({"reverse": True}), LAYERS),
    "scan unrolled by two": (scan({"unroll": 2}), LAYERS),
    "scan unrolled altogether": (scan({"unroll": LAYERS}), LAYERS),
    "scan over a jitted body": (scan({}, jax.jit), LAYERS),
    "scan over a rematerialised body": (scan({}, jax.checkpoint), LAYERS),
    "fori_loop": (fori(), LAYERS),
    "fori_loop backwards": (fori(lambda i: LAYERS - 1 - i), LAYERS),
    "fori_loop over the middle layers": (fori(first=1, stop=LAYERS - 1), LAYERS - 2),
    "fori_loop with plain indexing": (plain_indexing, LAYERS),
    "while_loop": (while_loop, LAYERS),
    "two layers a trip": (two_a_trip, LAYERS),
    "layers in a loop over tokens": (token_loop, LAYERS),
    "branches in a loop": (branch_in_a_loop, 2 * LAYERS),
}


def stacks(rng: np.random.Generator, dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    sizes = ((LAYERS, D, WIDTH), (LAYERS, WIDTH, D), (LAYERS, WIDTH))
    return tuple(array(rng, *size, dtype=dtype) / 4 for size in sizes)


def oracle(program: Program, x: jax.Array, weights: tuple[jax.Array, ...]) -> np.ndarray:
    """The dense program in float64."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a.astype(jnp.float32)), jnp.float64) for a in (x, *weights)]
        return np.asarray(jax.jit(program)(*wide))


def transformed(program: Program, predictor: Any, **rule: Any) -> hire.HireFunction:
    return hire.transform(jax.jit(program), hire.Config(rules=(hire.Rule(kind="ffn", predictor=predictor, **rule),)))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("predictor", [hire.Quantized(), hire.LowRank(rank=3)], ids=["int8", "low rank"])
def test_full_width_is_identity_in_every_loop(name: str, predictor: Any, rng: np.random.Generator) -> None:
    program, repeats = PROGRAMS[name]
    x, weights = array(rng, 2, D), stacks(rng)
    step = transformed(program, predictor, density=1.0)
    np.testing.assert_allclose(step(x, *weights), oracle(program, x, weights), rtol=1e-4, atol=1e-5)
    report = step.report()
    assert len(report.rewritten) == len(report.sites) > 0
    if name != "fori_loop over the middle layers":  # of which the stack's length is known, but not the bounds
        assert sum(site.repeat for site in report.sites) == repeats


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_right_layers_weights_are_used_at_small_width(name: str, rng: np.random.Generator) -> None:
    """Neurons beyond the first quarter have zero weight: leaving them out changes nothing, if the layer is right."""
    program, _ = PROGRAMS[name]
    order = np.concatenate([rng.permutation(WIDTH) for _ in range(LAYERS)]).reshape(LAYERS, WIDTH)
    dead = jnp.asarray(order >= WIDTH // 4)
    x, (up, down, bias) = array(rng, 2, D), stacks(rng)
    up, down = jnp.where(dead[:, None], 0, up), jnp.where(dead[:, :, None], 0, down)
    bias = jnp.where(dead, -9, bias)
    step = transformed(program, hire.Quantized(), density=0.25, group=1)
    np.testing.assert_allclose(step(x, up, down, bias), oracle(program, x, (up, down, bias)), rtol=1e-4, atol=1e-5)
    assert all(decision.candidates == WIDTH // 4 for decision in step.report().rewritten)
    assert step.report().rewritten


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("axis", [1, 2])
def test_stacks_along_another_axis(axis: int, rng: np.random.Generator) -> None:
    x, weights = array(rng, 2, D), stacks(rng)

    def program(x: jax.Array, up: jax.Array, down: jax.Array, bias: jax.Array) -> jax.Array:
        def body(i: Any, h: jax.Array) -> jax.Array:
            return block(h, pick(up, i, axis), pick(down, i, axis), pick(bias, i, 1))

        return jax.lax.fori_loop(0, LAYERS, body, x)

    given = (*(jnp.moveaxis(w, 0, axis) for w in weights[:2]), jnp.moveaxis(weights[2], 0, 1))
    step = transformed(program, hire.Quantized(), density=1.0)
    np.testing.assert_allclose(step(x, *given), oracle(program, x, given), rtol=1e-4, atol=1e-5)
    assert [site.repeat for site in step.report().sites] == [LAYERS]
    assert step.report().rewritten


def test_bfloat16_stacks(rng: np.random.Generator) -> None:
    program, _ = PROGRAMS["scan"]
    x, weights = array(rng, 2, D, dtype=jnp.bfloat16), stacks(rng, jnp.bfloat16)
    step = transformed(program, hire.LowRank(rank=3), density=1.0)
    got = np.asarray(step(x, *weights).astype(jnp.float32))
    np.testing.assert_allclose(got, oracle(program, x, weights), atol=0.1)
    assert step.report().rewritten


def test_one_stack_of_one_layer(rng: np.random.Generator) -> None:
    x, weights = array(rng, 2, D), tuple(w[:1] for w in stacks(rng))
    program, _ = PROGRAMS["scan"]
    step = transformed(program, hire.Quantized(), density=1.0)
    np.testing.assert_allclose(step(x, *weights), oracle(program, x, weights), rtol=1e-4, atol=1e-5)
    assert [site.repeat for site in step.report().sites] == [1]
    assert step.report().rewritten


def test_a_generate_function_with_layers_head_and_token_loop(rng: np.random.Generator) -> None:
    """The whole of greedy decoding in one program, with the head inside the token loop."""
    embed, weights = array(rng, VOCABULARY, D), stacks(rng)

    def generate(t: jax.Array, embed: jax.Array, weights: tuple[jax.Array, ...]) -> jax.Array:
        def token(t: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            h = jax.lax.scan(lambda h, p: (block(h, *p), None), embed[t], weights)[0]
            best = jnp.argmax(h @ embed.T, axis=-1)
            return best, best

        return jax.lax.scan(token, t, length=6)[1]

    rules = (
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0),
        hire.Rule(kind="head", predictor=hire.Quantized(), candidates=64),
    )
    step = hire.transform(jax.jit(generate), hire.Config(rules=rules))
    t = jnp.asarray(rng.integers(0, VOCABULARY, 3), jnp.int32)
    np.testing.assert_array_equal(step(t, embed, weights), generate(t, embed, weights))
    assert [(site.kind, site.repeat) for site in step.report().sites] == [("ffn", LAYERS), ("head", 1)]
    assert len(step.report().rewritten) == 2


def test_the_stacks_are_no_carries_of_the_step(rng: np.random.Generator) -> None:
    """A loop that carries a stack may copy it on every trip."""
    program, _ = PROGRAMS["scan"]
    x, weights = array(rng, 2, D), stacks(rng)
    step = transformed(program, hire.Quantized(), density=0.25)
    step(x, *weights)
    text = step.lower(x, *weights).as_text()
    (loop,) = [line for line in text.splitlines() if "stablehlo.while" in line]
    assert f"{LAYERS}x" not in loop
