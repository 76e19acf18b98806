"""Where a shard cannot prove a strict winner, the author's own program decides, split as XLA splits it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import batch_axis, mesh_of, place

V, D, BATCH = 1024, 33, 4
RULE = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict")


def plain(w: Any, x: Any) -> Any:
    return jnp.argmax(x @ w.T, -1)


def by_columns(w: Any, x: Any) -> Any:
    return jax.lax.top_k(x @ w, 4)


def sampled(w: Any, x: Any) -> Any:
    return jax.random.categorical(jax.random.key(3), x @ w.T)


def widened(w: Any, x: Any) -> Any:
    return jnp.argmax((x @ w.T).astype(jnp.float32), -1)


def hard_inputs(rng: np.random.Generator, w: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of which no certificate can say anything: only the order of dense's own sums decides."""
    x = rng.standard_normal((BATCH, D))
    return {
        "products that are flushed to zero": x * 1e-37,
        "sums that overflow on the way": x * 1e37,
        "NaN": np.where(np.arange(D) == 5, np.nan, x),
        "ties of many rows": np.zeros((BATCH, D)) + (np.arange(D) == 0),
        "one row of each batch": np.where(np.arange(BATCH)[:, None] == 2, x * 1e38, x),
    }


def softmax(w: Any, x: Any) -> Any:
    return jnp.argmax(jax.nn.softmax((x @ w.T).astype(jnp.float32)), -1)


STEPS = (plain, by_columns, sampled, widened, softmax)
CASES = [(m, s, t) for m in ("8", "2x4") for s in STEPS for t in ("float32", "bfloat16")]
FAST = [("8", plain, "float32"), ("2x4", sampled, "bfloat16")]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("mesh", "step", "dtype"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_doubts_are_settled_as_dense_settles_them(rng: np.random.Generator, mesh: str, step: Any, dtype: Any) -> None:
    devices = mesh_of(mesh)
    w = rng.standard_normal((V, D))
    w[:, 0] = np.round(w[:, 0])
    spec = ("model", None)
    if step is by_columns:
        w, spec = w.T, (None, "model")
    placed = place(devices, jnp.asarray(w, dtype), *spec)
    dense, rewritten = jax.jit(step), hire.transform(step, hire.Config(rules=(RULE,)))
    for what, numbers in hard_inputs(rng, w).items():
        x = place(devices, jnp.asarray(numbers, dtype), batch_axis(devices))
        for got, wanted in zip(jax.tree.leaves(rewritten(placed, x)), jax.tree.leaves(dense(placed, x)), strict=True):
            if wanted.dtype == jnp.int32:
                np.testing.assert_array_equal(got, wanted, err_msg=what)
    (proof,) = rewritten.report().certificates
    assert proof.proven < proof.rows


@pytest.mark.slow
def test_a_certificate_up_to_rounding_fails_where_the_storage_overflows(rng: np.random.Generator) -> None:
    """Two logits beyond the largest float16 tie in dense; the larger of the real numbers is no answer there."""
    devices = mesh_of("4")
    w = place(devices, jnp.asarray(rng.standard_normal((V, D)), jnp.float16), "model", None)
    x = place(devices, jnp.asarray(rng.standard_normal((BATCH, D)) * 3e4, jnp.float16))
    head = jax.jit(lambda w, x: jax.lax.top_k(x @ w.T, 1))
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify=True)
    step = hire.transform(head, hire.Config(rules=(rule,)))
    got, wanted = step(w, x), head(w, x)
    assert np.isinf(wanted[0]).all()
    np.testing.assert_array_equal(got[1], wanted[1])
    assert step.report().certificates[0].proven == 0
