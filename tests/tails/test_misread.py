"""An error of ours while a tail is read leaves the head dense and is its reason; a failing machine is neither."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import hire_compiler as hire
from hire_compiler.patterns.head import head

ARGUMENTS = jnp.ones((4096, 32)), jnp.ones((1, 32))


def likely(w: jax.Array, x: jax.Array) -> jax.Array:
    p = jax.nn.softmax(x @ w.T, axis=-1)
    return jnp.argmax(jnp.where(p > 0.1 * p.max(axis=-1, keepdims=True), p, 0.0), axis=-1)


def fail_with(error: Exception, patch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise error

    patch.setattr(head, "read_tail", failing)


def test_the_tail_is_read_here() -> None:
    assert hire.transform(likely).report(*ARGUMENTS).decisions[0].action == "rewritten"


@pytest.mark.parametrize("error", [TypeError("no such sum"), KeyError("gather"), AssertionError("a shape")], ids=repr)
def test_an_error_of_ours_leaves_the_head_dense(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(error, monkeypatch)
    (decision,) = hire.transform(likely).report(*ARGUMENTS).decisions
    assert decision.action == "dense"
    assert f"what reads its logits is not understood ({type(error).__name__}: {error})" in decision.reason


def test_a_failing_machine_is_no_reason_to_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(MemoryError("full"), monkeypatch)
    with pytest.raises(MemoryError, match="full"):
        hire.transform(likely).report(*ARGUMENTS)
