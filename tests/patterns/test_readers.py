"""Who reads the logits: numbers of a row that a loop or a branch hands on are readers too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.patterns.weights.quantised import storage

V, D = 4096, 64


def while_step(number: Callable[[Any], Any]) -> Callable[..., Any]:
    """Three tokens in a ``while``, with a number of each row of logits beside the last one."""

    def step(w: Any, x: Any) -> Any:
        def body(state: Any) -> Any:
            i, _, _ = state
            logits = (x + i) @ w.T
            return i + 1, jnp.argmax(logits, -1), number(logits)

        start = (0, jnp.zeros((1,), int), jnp.zeros((1,), jnp.float32))
        return jax.lax.while_loop(lambda state: state[0] < 3, body, start)

    return step


def branch_step(number: Callable[[Any], Any]) -> Callable[..., Any]:
    """The number is made in a branch."""

    def step(w: Any, x: Any) -> Any:
        logits = x @ w.T
        return jnp.argmax(logits, -1), jax.lax.cond(x[0, 0] > 0, number, lambda z: z[:, 0], logits)

    return step


@pytest.mark.parametrize("make", [while_step, branch_step])
def test_a_normaliser_that_leaves_a_body_needs_all_logits(make: Any, rng: np.random.Generator) -> None:
    w, x = (rng.standard_normal(shape, np.float32) for shape in ((V, D), (1, D)))
    step = hire.transform(make(lambda z: jax.nn.logsumexp(z, -1)))
    step(w, x)
    (site,), (decision,) = step.report().sites, step.report().decisions
    assert "logsumexp" in site.consumers
    assert decision.action == "dense"
    assert "only known between bounds" in decision.reason


@pytest.mark.slow
def test_the_largest_logit_that_leaves_a_body_is_taken_from_the_winner(rng: np.random.Generator) -> None:
    w, x = (rng.standard_normal(shape, np.float32) for shape in ((V, D), (1, D)))
    dense = while_step(lambda z: jnp.max(z, -1))
    step = hire.transform(dense)
    got, wanted = step(w, x), jax.jit(dense)(w, x)
    (site,) = step.report().sites
    assert site.consumers == ("argmax", "max")
    assert [d.action for d in step.report().decisions] == ["rewritten"]
    np.testing.assert_array_equal(got[1], wanted[1])
    np.testing.assert_allclose(got[2], wanted[2], rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("int8", "int8"), ("uint4", "uint4"), ("f8E4M3FN", "f8E4M3FN"), ("float8_e5m2", "float8_e5m2"),
        ("uint32", "uint32, packed"), ("float64", ""), ("float32", ""), ("bfloat16", ""), ("float16", ""),
    ],
)  # fmt: skip
def test_what_counts_as_quantised(dtype: str, name: str) -> None:
    assert storage(dtype) == name
