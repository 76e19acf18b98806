"""Static overlap: neurons that every call computes, laid out first; and the size of groups, both from calibration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.passes.plan.neurons import common_order
from hire_compiler.runtime.ffn import select_groups
from hire_compiler.runtime.predictors import PREDICTOR_ARRAYS
from hire_compiler.runtime.target import target_for
from tests.support.masked import largest_difference, masked
from tests.support.models import said
from tests.support.programs import Ffn, rank_of, rounding, wide

CPU = target_for("cpu")
WIDTH = 64


class Sparse(Ffn):
    """Few neurons are active, so that the rows of a batch can share a choice."""

    def arguments(self) -> tuple[dict[str, jax.Array], jax.Array]:
        params, x = super().arguments()
        return {**params, "bias": params["bias"] - 2}, x


def program(gated: bool, layers: int | None, dtype: str, batch: int) -> Ffn:
    return (Sparse if batch > 1 else Ffn)(
        activation="relu" if not gated else "silu", gated=gated, layout="in_out" if not gated else "fused_d_2f",
        down="in_out", bias=True, dtype=dtype, batch=batch, sequence=False, lookup=False, d=12, width=WIDTH,
        layers=layers, seed=21,
    )  # fmt: skip


def learned(block: Ffn, rows: int = 40) -> hire.Calibration:
    params, _ = block.arguments()
    xs = np.random.default_rng(5).normal(size=(4, rows, block.d))
    return hire.calibrate(block.function, [(params, jnp.asarray(x, block.dtype)) for x in xs], kind="ffn")


def rewritten(block: Ffn, calibration: hire.Calibration, **rule: Any) -> tuple[hire.HireFunction, Any]:
    made = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4, dtype="float32"), **rule)
    step = hire.transform(jax.jit(block.function), hire.Config(rules=(made,)), calibration=calibration)
    return step, step(*block.arguments())


cases = pytest.mark.parametrize(
    ("gated", "layers", "dtype", "batch"),
    [
        (False, None, "float32", 1),
        (True, 3, "float32", 1),
        (True, None, "bfloat16", 1),
        (False, 3, "bfloat16", 8),
        (False, 3, "float32", 8),
    ],
)


@pytest.mark.slow
@cases
def test_full_width_with_a_common_path_is_identity(gated: bool, layers: int | None, dtype: str, batch: int) -> None:
    block = program(gated, layers, dtype, batch)
    step, result = rewritten(block, learned(block), density=1.0, group=4, common=20)
    (decision,) = step.report().rewritten
    assert (decision.common, decision.candidates) == (20, WIDTH)
    assert decision.exactness.startswith("exact")
    check(block, result, lambda layer, h: None)


@pytest.mark.slow
@cases
def test_same_selection_same_answer_with_a_common_path(gated: bool, layers: int | None, dtype: str, batch: int) -> None:
    block, group, common = program(gated, layers, dtype, batch), 4 if batch == 1 else 1, 8
    calibration = learned(block)
    step, result = rewritten(block, calibration, candidates=24, group=group, common=common)
    (activity,) = calibration.activities.values()
    order = np.atleast_2d(common_order(activity, group, common))
    params, x = block.arguments()
    (arrays,) = step.prepare(params, x).values()
    predictor = {name: array for name, array in arrays.items() if name in PREDICTOR_ARRAYS}

    def neurons(layer: int | None, h: Any) -> Any:
        own = order[layer or 0]
        bias = params["bias"][..., own] if layer is None else jnp.stack([b[o] for b, o in zip(params["bias"], order)])
        groups = select_groups(
            jnp.asarray(h, x.dtype), predictor, bias[..., common:], rank_of(block.activation), group,
            (24 - common) // group, CPU, None if layer is None else jnp.int32(layer),
        )  # fmt: skip
        rest = (np.asarray(groups)[:, None] * group + np.arange(group)).ravel()
        return np.sort(np.concatenate([own[:common], own[common:][rest]]))

    check(block, result, neurons)
    rule = hire.Rule(
        kind="ffn", predictor=hire.LowRank(rank=4, dtype="float32"), candidates=24, group=group, common=common
    )
    oracle = masked(block.function, hire.Config(rules=(rule,)), params, x, calibration=calibration)
    assert largest_difference(result, oracle) < (1e-5 if dtype == "float32" else 0.05)


def check(block: Ffn, result: Any, neurons: Any) -> None:
    """The result of every layer against float64 on the neurons that were chosen for its input."""
    params, x = block.arguments()
    final, inputs = result if block.layers else (result, None)
    states = [wide(s).reshape(-1, block.d) for s in ((*inputs, final) if block.layers else (x, result))]
    for layer, (h, after) in enumerate(itertools.pairwise(states)):
        at = layer if block.layers else None
        wanted, slack = block.oracle(params, h, neurons(at, h), at)
        extra = rounding(block.dtype) * np.abs(after) if block.layers else 0.0
        got = after - h if block.layers else after
        assert (np.abs(got - wanted) <= slack + extra).all(), f"layer {at}"


def test_the_order_puts_the_most_active_groups_first_and_keeps_groups_whole() -> None:
    block = program(gated=False, layers=3, dtype="float32", batch=1)
    (activity,) = learned(block).activities.values()
    order = common_order(activity, 4, 12)
    assert (np.sort(order, axis=1) == np.arange(WIDTH)).all()
    for layer in range(3):
        groups = order[layer].reshape(-1, 4)
        assert (groups == groups[:, :1] + np.arange(4)).all()
        frequency = activity.frequency(4)[layer][groups[:, 0] // 4]
        assert frequency[:3].min() >= frequency[3:].max()
        assert (np.diff(groups[:3, 0]) > 0).all()
        assert (np.diff(groups[3:, 0]) > 0).all()


# --------------------------------------------------------------------------- left to calibration

D, WIDE = 64, 512


def relu(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]


def biased(bias: np.ndarray, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    up = rng.normal(size=(D, WIDE)) / np.sqrt(D)
    return {name: jnp.asarray(a, jnp.float32) for name, a in
            (("up", up), ("bias", bias), ("down", rng.normal(size=(WIDE, D))))}  # fmt: skip


def calibrated(w: dict[str, jax.Array], function: Any = relu) -> hire.Calibration:
    xs = np.random.default_rng(9).normal(size=(6, 32, D))
    return hire.calibrate(function, [(w, jnp.asarray(x, jnp.float32)) for x in xs], kind="ffn")


def planned(w: dict[str, jax.Array], calibration: Any, batch: int = 1, **rule: Any) -> Any:
    rule = {"predictor": hire.LowRank(rank=8), "density": 0.25, **rule}
    step = hire.transform(relu, hire.Config(rules=(hire.Rule(kind="ffn", **rule),)), calibration=calibration)
    report = step.report(w, jnp.ones((batch, D)))
    return report.decisions[0], said(report)


@pytest.mark.slow
def test_neurons_that_are_always_active_become_the_common_path() -> None:
    bias = np.where(np.arange(WIDE) % 16 == 3, 9.0, -2.0)  # 32 neurons are always active
    w = biased(bias)
    decision, text = planned(w, calibrated(w), group=1)
    assert decision.common == 32
    assert "32 of them always (common path)" in text
    without, _ = planned(w, calibrated(w), group=1, common=0)
    assert without.common == 0
    assert decision.sparse_bytes < without.sparse_bytes  # the predictor ranks the rest only
    assert decision.added_bytes > without.added_bytes  # and the rows stand in another order


@pytest.mark.slow
def test_where_no_neuron_is_active_most_of_the_time_there_is_no_common_path() -> None:
    w = biased(np.full(WIDE, -1.0))
    assert planned(w, calibrated(w), group=1)[0].common == 0
    assert planned(w, None)[0].common == 0


def test_a_model_not_trained_in_groups_gets_single_neurons() -> None:
    w = biased(np.full(WIDE, -1.34))
    decision, text = planned(w, calibrated(w))
    union = dict(decision.union)
    assert decision.group == 1
    assert union[1] == pytest.approx(0.09, abs=0.02)
    assert union[8] == pytest.approx(1 - 0.91**8, abs=0.08)
    assert f"a call touches {union[1]:.1%} of neurons, {union[8]:.1%} of all groups of 8" in text


@pytest.mark.parametrize("group", [8, 32])
def test_neurons_that_fire_together_are_chosen_together(group: int) -> None:
    w = biased(np.full(WIDE, -1.34))
    w["up"] = jnp.repeat(w["up"][:, ::group], group, axis=1)
    decision, _ = planned(w, calibrated(w))
    assert decision.group == group
    assert dict(decision.union)[group] == pytest.approx(dict(decision.union)[1], abs=0.01)


def test_without_a_calibration_groups_have_eight_neurons() -> None:
    decision, text = planned(biased(np.full(WIDE, -1.34)), None)
    assert decision.group == 8
    assert "calibrated" not in text.replace("not calibrated", "")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"common": 8}, r"common=8 is impossible: which neurons are active most is not known; pass calibration="),
        ({"common": 8, "calibrated": True, "predictor": hire.Exact()}, r"common=8 is impossible: nothing is predicted"),
        (
            {"common": 8, "calibrated": True, "predictor": hire.Quantized(), "certify": True},
            r"common=8 is impossible: nothing is predicted",
        ),
        ({"common": 200, "calibrated": True}, r"common path of 200 neurons does not fit in the 128 candidates"),
        (
            {"common": 512, "calibrated": True, "density": 1.0},
            r"common=512 leaves nothing to predict; use dense=True",
        ),
    ],
)
def test_a_common_path_that_cannot_be_is_refused(rule: dict[str, Any], message: str) -> None:
    w = biased(np.full(WIDE, -1.0))
    calibration = calibrated(w) if rule.pop("calibrated", False) else None
    with pytest.raises(hire.ConfigError, match=message):
        planned(w, calibration, **rule)


def test_a_head_has_no_common_path() -> None:
    with pytest.raises(hire.ConfigError, match="common is for feed-forward blocks"):
        hire.Rule(kind="head", predictor=hire.Quantized(), density=0.1, common=8)
    with pytest.raises(hire.ConfigError, match=r"common is 1\.5"):
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.1, common=1.5)


def test_an_artifact_lays_its_weights_out_in_the_same_order(tmp_path: Path) -> None:
    w = biased(np.where(np.arange(WIDE) % 16 == 3, 9.0, -2.0))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (w, jnp.ones((2, D))))
    exported = jax.export.export(jax.jit(relu))(*shapes)
    calibration = calibrated(w)
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=8, dtype="float32"), candidates=128, group=1)
    named = {f"w['{name}']": np.asarray(array) for name, array in w.items()}
    config = hire.Config(rules=(rule,))
    artifact = hire.rewrite(exported, config, calibration=calibration, weights=named, platforms=("cpu",))
    assert artifact.report()["cpu"]["decisions"][0]["common"] == 32
    step = hire.transform(relu, config, calibration=calibration)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, D)), jnp.float32)
    loaded = hire.load(artifact.save(tmp_path / "relu.hire"))
    np.testing.assert_allclose(loaded(x), step(w, x), rtol=1e-4, atol=1e-4)
    assert step.report().rewritten[0].common == 32
