"""What a tail costs: steps to read it, and arrays of the whole vocabulary in the compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.measuring.hlo.text import Computation, HloProgram, read_hlo
from hire_compiler.proofs.enclosure import Steps
from hire_compiler.tails.interpret import Interpreter
from tests.support.drawn import drawn

V, D, BATCH = 2048, 32, 2
STRICT = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify="strict"),))


def counted(monkeypatch: pytest.MonkeyPatch, of: type, name: str) -> list[int]:
    """How often a method is called, from now on."""
    calls, method = [0], getattr(of, name)

    def count(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        return method(*args, **options)

    monkeypatch.setattr(of, name, count)
    return calls


def test_each_operation_of_a_long_sampler_is_read_twice_and_traced_once_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    operations, traced = counted(monkeypatch, Interpreter, "run"), counted(monkeypatch, Steps, "next")

    def read(length: int) -> tuple[int, int]:
        def step(w: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
            z = x @ w.T
            for i in range(length):
                z = jnp.where(mask > i, z * 1.01, z - 0.1)
            return jnp.argmax(z, axis=-1)

        operations[0] = traced[0] = 0
        (site,) = hire.inspect(step, jnp.ones((V, D)), jnp.ones((BATCH, D)), jnp.ones((BATCH, V))).sites
        assert site.kind == "head"
        return operations[0], traced[0]

    (short, kinds), (long, same) = read(10), read(100)
    assert 90 <= long - short <= 2 * 4 * 90  # to see what is compared, and with candidates
    assert kinds == same


def always_made(program: HloProgram, computation: Computation) -> list[tuple[int, ...]]:
    """The shapes of the arrays that a program makes, but for those of branches."""
    made = []
    for instruction in computation.instructions:
        if instruction.op in ("while", "call"):
            made += [shape for name in instruction.called for shape in always_made(program, program.computations[name])]
        elif instruction.op not in ("parameter", "get-tuple-element", "tuple", "bitcast", "conditional"):
            made += [array.shape for array in instruction.results]
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "winners",
    [
        lambda z, mask: jnp.argmax(jnp.where(mask, z, -jnp.inf), axis=-1),
        pytest.param(lambda z, mask: jnp.argmax(z, axis=-1), marks=pytest.mark.slow),
        pytest.param(lambda z, mask: jax.lax.top_k(z, 8)[1], marks=pytest.mark.slow),
    ],
    ids=["masked", "greedy", "top_k"],
)
def test_a_certified_step_holds_few_arrays_of_the_whole_vocabulary(
    winners: Callable[..., jax.Array], rng: np.random.Generator
) -> None:
    """Products of the copy, those scaled to predictions, bounds to choose by, and which rows reach the winner."""
    w, x = (drawn(rng.normal(size=size), jnp.float32) for size in ((V, D), (BATCH, D)))
    mask = jnp.asarray(rng.random((BATCH, V)) < 0.5)
    fast = hire.transform(lambda w, x, mask: winners(x @ w.T, mask), STRICT)
    program = read_hlo(fast.lower(w, x, mask).compile().as_text())
    assert sum(sorted(shape)[-2:] == [BATCH, V] for shape in always_made(program, program.main)) <= 4
