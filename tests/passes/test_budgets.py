"""``Exact()`` without a number: budgets from calibration, from an author's choice, or by shares of the width."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

D, WIDTH = 256, 2048  # down alone has 2 MiB: more than stays in the cache
Params = dict[str, jax.Array]


def plain(w: Params, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]


def gated(w: Params, x: jax.Array) -> jax.Array:
    return (jnp.square(jax.nn.relu(x @ w["gate"] + w["bias"])) * (x @ w["up"])) @ w["down"]


def scanned(w: Params, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (x + plain(w, x), None), x, w)[0]


def weights(shift: float, layers: int | None = None, width: int = WIDTH) -> Params:
    rng = np.random.default_rng(0)
    stack = () if layers is None else (layers,)
    shapes = {"gate": (D, width), "up": (D, width), "down": (width, D)}
    w = {n: drawn(rng.normal(size=(*stack, *s)) / np.sqrt(s[0]), jnp.float32) for n, s in shapes.items()}
    return w | {"bias": jnp.full((*stack, width), shift, jnp.float32)}


def inputs(seed: int, rows: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, D)), jnp.float32)


def run(block: Any, w: Params, x: jax.Array, **more: Any) -> hire.Report:
    """Check the rewritten block against the dense one; its report."""
    step = hire.transform(jax.jit(block), **more)
    got, want = step(w, x), jax.jit(block)(w, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * float(jnp.abs(want).max()))
    return step.report()


@pytest.mark.diagonal(keep=2)
@pytest.mark.parametrize("block", [plain, gated], ids=["plain", "gated"])
@pytest.mark.parametrize(("shift", "proven"), [(-2.5, 1), (-1.3, 1), (0.0, 0)], ids=["few", "some", "half"])
def test_a_relu_block_is_skipped_exactly_by_default_without_a_calibration(
    block: Any, shift: float, proven: int
) -> None:
    report = run(block, weights(shift), inputs(1))
    (decision,) = report.rewritten
    assert (decision.predictor, decision.candidates, decision.group) == ("Exact()", WIDTH // 4, 1)
    assert "not calibrated, so there is room for 128, then 256, then 512 active neurons" in decision.reason
    (certificate,) = report.certificates
    assert certificate.proven == proven  # half of all neurons do not fit: the dense block ran


@pytest.mark.slow
def test_the_smallest_budget_that_holds_is_the_one_that_runs() -> None:
    from hire_compiler.runtime.ffn import Form
    from hire_compiler.runtime.skip_zeros import _sparse_or_dense, largest_entry
    from hire_compiler.runtime.target import target_for

    sizes: list[int] = []
    down = inputs(2, 64)
    form = Form(activation=jax.nn.relu, group=1, target=target_for("cpu"))

    def sparse(groups: jax.Array) -> jax.Array:
        size = len(groups)
        jax.debug.callback(lambda: sizes.append(size))
        return jnp.ones((1, size))

    def dense() -> jax.Array:
        jax.debug.callback(lambda: sizes.append(64))
        return needed.astype(jnp.float32)

    for count, wanted in ((0, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 64), (64, 64)):
        needed = (jnp.arange(64) < count)[None]
        sizes.clear()
        block = _sparse_or_dense(
            needed, (4, 8, 16), down, form, sparse, dense, {0: jnp.zeros(1)}, {"largest": largest_entry(down)}
        )
        jax.effects_barrier()
        assert sizes == [wanted]
        assert int(block.fits) == (count <= 16)
        np.testing.assert_allclose(block.y[0], np.asarray(down)[:count].sum(axis=0), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_budgets_are_quantiles_of_what_calibration_saw(batch: int) -> None:
    w = weights(-1.9)
    seen = [inputs(seed, 64) for seed in range(4)]
    learned = hire.calibrate(plain, [(w, x) for x in seen], kind="ffn")
    active = np.concatenate([np.asarray(jax.nn.relu(x @ w["up"] + w["bias"]) > 0) for x in seen])
    union = active[: 256 // batch * batch].reshape(4, batch, -1, WIDTH).any(axis=1).sum(axis=-1)
    report = run(plain, w, inputs(9, batch), calibration=learned)
    (decision,) = report.rewritten
    assert decision.group == 1
    assert union.max() * 0.95 <= decision.candidates <= union.max() + WIDTH / 256 + 1
    assert f"{decision.candidates} active neurons, by calibration on 256 rows" in decision.reason
    (certificate,) = report.certificates
    assert certificate.proven == batch


@pytest.mark.slow
def test_layers_of_a_scan_have_one_budget_for_the_most_active_of_them() -> None:
    w = weights(-1.9, layers=3)
    w["bias"] = w["bias"] + jnp.asarray([-0.6, 0.0, 0.3])[:, None]
    learned = hire.calibrate(scanned, [(w, inputs(seed, 64)) for seed in range(3)], kind="ffn")
    report = run(scanned, w, inputs(9), calibration=learned)
    (activity,) = learned.activities.values()
    (decision,) = report.rewritten
    assert decision.candidates == np.ceil(activity.most(1, 1, 0.999) * WIDTH)


@pytest.mark.slow
def test_a_block_that_calibration_saw_busy_is_left_dense_with_the_numbers() -> None:
    w = weights(0.0)
    learned = hire.calibrate(plain, [(w, inputs(3, 64))], kind="ffn")
    report = run(plain, w, inputs(9), calibration=learned)
    (decision,) = report.decisions
    assert decision.action == "dense"
    assert re.search(r"in calibration a call mostly touched (4\d|5\d)% of its neurons", decision.reason)
    assert "no skip would pay" in decision.reason


@pytest.mark.slow
def test_rows_of_a_batch_that_share_little_are_left_dense() -> None:
    """9 % active a row, and more than half of all neurons between sixteen independent rows."""
    w = weights(-1.34)
    learned = hire.calibrate(plain, [(w, inputs(seed, 64)) for seed in range(3)], kind="ffn")
    assert run(plain, w, inputs(9), calibration=learned).decisions[0].action == "rewritten"
    (decision,) = run(plain, w, inputs(9, 16), calibration=learned).decisions
    assert decision.action == "dense"
    assert "in calibration the 16 rows of a call mostly touched" in decision.reason


def test_what_stays_in_the_cache_is_left_alone_unless_a_rule_asks() -> None:
    w = weights(-2.5, width=512)
    (decision,) = run(plain, w, inputs(1)).decisions
    assert decision.action == "dense"
    assert "bytes that could be skipped stay in the cache" in decision.reason
    rule = hire.Rule(kind="ffn", predictor=hire.Exact())
    (decision,) = run(plain, w, inputs(1), config=hire.Config(rules=(rule,))).rewritten
    assert decision.candidates == 128


def test_a_large_batch_is_left_dense_by_default() -> None:
    (decision,) = run(plain, weights(-2.5), inputs(1, 17)).decisions
    assert decision.reason == "its batch of 17 rows is more than the max_batch 16 of the exact default"


def test_the_default_can_be_switched_off() -> None:
    (decision,) = run(plain, weights(-2.5), inputs(1), config=hire.Config(exact=False)).decisions
    assert decision.action == "dense"


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["weights", "everything"])
def test_dead_blocks_are_no_special_case(dead: str) -> None:
    """All-zero weights, and a calibration in which no neuron was ever active."""
    w = weights(-1.0)
    w = {**w, "up": jnp.zeros_like(w["up"])} if dead == "weights" else jax.tree.map(jnp.zeros_like, w)
    for predictor in (hire.Exact(), hire.LowRank(rank=8), hire.Quantized()):
        density = None if isinstance(predictor, hire.Exact) else 0.1
        config = hire.Config(rules=(hire.Rule(kind="ffn", predictor=predictor, density=density),))
        learned = hire.calibrate(plain, [(w, inputs(0, 32))], kind="ffn", config=config)
        for calibration in (None, learned):
            step = hire.transform(jax.jit(plain), config, calibration=calibration)
            np.testing.assert_array_equal(step(w, inputs(1)), np.zeros((1, D), np.float32))
            assert step.report().rewritten
    (activity,) = learned.activities.values()
    assert activity.union(1) == activity.most(8, 4, 0.999) == 0
