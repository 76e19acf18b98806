"""What a weight may hold, and when its memory counts as unchanging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.calling.writable import nobody_can_write
from tests.support.drawn import drawn
from tests.support.models import said

N, D = 1024, 16


def head(w: Any, b: Any, x: Any) -> Any:
    return jax.lax.top_k(x @ w.T + b, 3)


def operands(rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    return drawn(rng.normal(size=(N, D)), jnp.float32), drawn(rng.normal(size=(2, D)), jnp.float32)


MASK = np.where(np.arange(N) % 3 == 0, -np.inf, 0.0).astype(np.float32)
MASKS = {
    "some masked": MASK,
    "all masked": np.full(N, -np.inf, np.float32),
    "all but one": np.where(np.arange(N) == 77, 0.0, -np.inf).astype(np.float32),
    "one forced": np.where(np.arange(N) == 77, np.inf, MASK).astype(np.float32),
    "one NaN": np.where(np.arange(N) == 77, np.nan, MASK).astype(np.float32),
}


def test_a_bias_may_hold_anything(rng: np.random.Generator) -> None:
    (w, x), step = operands(rng), hire.transform(jax.jit(head))
    for name, mask in MASKS.items():
        got, want = step(w, jnp.asarray(mask), x), jax.jit(head)(w, mask, x)
        np.testing.assert_array_equal(got[1], want[1], name)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5, err_msg=name)
    assert step.report().rewritten
    step.prepare(w, jnp.asarray(MASK), x)


@pytest.mark.parametrize("predictor", [hire.LowRank(rank=4), hire.Quantized(bits=4, columns=8)])
def test_a_masked_row_never_wins_where_logits_are_predicted(predictor: Any, rng: np.random.Generator) -> None:
    w, x = operands(rng)
    rule = hire.Rule(kind="head", predictor=predictor, candidates=N // 2)
    step = hire.transform(jax.jit(lambda w, b, x: x @ w.T + b), hire.Config(rules=(rule,)))
    got = step(w, jnp.asarray(MASK), x)
    np.testing.assert_array_equal(np.isneginf(got), np.broadcast_to(np.isneginf(MASK), got.shape))


@pytest.mark.parametrize("certify", [True, False])
def test_a_bias_of_a_block_may_hold_infinities(certify: bool, rng: np.random.Generator) -> None:
    up, down = (drawn(rng.normal(size=shape), jnp.float32) for shape in ((D, 64), (64, D)))
    bias, x = jnp.zeros(64).at[::3].set(-jnp.inf), operands(rng)[1]
    block = jax.jit(lambda up, b, down, x: jax.nn.relu(x @ up + b) @ down)
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0, certify=certify, group=1)
    step = hire.transform(block, hire.Config(rules=(rule,)))
    np.testing.assert_allclose(step(up, bias, down, x), block(up, bias, down, x), rtol=1e-4, atol=1e-4)
    assert step.report().rewritten


def test_after_weights_with_nan_good_ones_are_rewritten_again(rng: np.random.Generator) -> None:
    (w, x), step, zero = operands(rng), hire.transform(jax.jit(head)), jnp.zeros(N)
    bad = w.at[5, 3].set(jnp.nan)
    with pytest.warns(hire.HireWarning, match="runs as it was written"):
        np.testing.assert_array_equal(step(bad, zero, x)[1], jax.jit(head)(bad, zero, x)[1])
    np.testing.assert_array_equal(step(bad, zero, x)[1], jax.jit(head)(bad, zero, x)[1])  # and no second warning
    assert "runs as written" in said(step.report())
    np.testing.assert_array_equal(step(w, zero, x)[1], jax.jit(head)(w, zero, x)[1])
    assert "runs as written" not in said(step.report())


@pytest.mark.parametrize("shape", [(0, D), (2, 0)])
def test_empty_arrays_are_no_reason_to_fail(shape: tuple[int, int]) -> None:
    def logits(w: Any, x: Any) -> Any:
        return x @ w.T

    w = jnp.ones((N, shape[1]))
    np.testing.assert_array_equal(hire.transform(jax.jit(logits))(w, jnp.ones(shape)), jnp.ones(shape) @ w.T)


# --------------------------------------------------------------------------- memory that may change


def test_only_memory_that_nobody_can_write_is_unchanging(tmp_path: Path) -> None:
    base = np.ones((4, 4), np.float32)
    view, locked = base.view(), np.ones(4)
    view.flags.writeable = locked.flags.writeable = False
    np.save(tmp_path / "w.npy", base)
    for changing in (base, view, locked, np.broadcast_to(base[0], (4, 4)), np.load(tmp_path / "w.npy", mmap_mode="r")):
        assert not nobody_can_write(changing)
    owned = np.asarray(jnp.ones((4, 4)))
    for fixed in (jnp.ones(3), owned, owned[1:], owned.view(np.int32), np.frombuffer(bytes(8), np.float32)):
        assert nobody_can_write(fixed)


@pytest.mark.diagonal(keep=1)
@pytest.mark.filterwarnings("ignore:.*prepared anew")
@pytest.mark.parametrize("kind", ["view", "locked", "closed over"])
def test_weights_that_change_in_place_never_leave_a_stale_predictor(kind: str, rng: np.random.Generator) -> None:
    base = rng.normal(size=(N, D)).astype(np.float32)
    w, x = base, operands(rng)[1]
    if kind != "closed over":
        w = base.view() if kind == "view" else base
        writer = base[:]
        w.flags.writeable = False
    else:
        writer = base
    dense = (
        jax.jit(lambda x: jnp.argmax(x @ w.T, -1))
        if kind == "closed over"
        else jax.jit(lambda w, x: jnp.argmax(x @ w.T, -1))
    )
    step = hire.transform(dense)
    arguments = (x,) if kind == "closed over" else (w, x)
    for _ in range(3):
        np.testing.assert_array_equal(step(*arguments), dense(*arguments))
        writer[:] = rng.normal(size=base.shape)
