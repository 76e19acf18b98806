"""Low-rank adapters on the products of a block: it is a site, and what they add stands on the chosen neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.target import stand_in, target_for
from tests.support.drawn import drawn

D, FF, RANK, ADAPTERS, BATCH = 32, 128, 4, 3, 2
Weights = dict[str, jax.Array]
Block = Callable[..., jax.Array]


def low(w: Weights, name: str, x: jax.Array) -> jax.Array:
    return (x @ w[f"{name}_a"]) @ w[f"{name}_b"]


def picked(w: Weights, name: str, x: jax.Array, ids: jax.Array) -> jax.Array:
    """One adapter for each request, by its number, with a scale of its own."""
    inner = jnp.einsum("bd,bdr->br", x, w[f"{name}_as"][ids])
    return jnp.einsum("br,brf->bf", inner, w[f"{name}_bs"][ids]) * w["scales"][ids][:, None]


def on_up(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + low(w, "up", x) - 1) @ w["down"]


def unshifted(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + low(w, "up", x)) @ w["down"]


def unshifted_for_each_request(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + picked(w, "up", x, ids)) @ w["down"]


def scaled(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + 0.5 * low(w, "up", x) - 1) @ w["down"]


def with_a_bias(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + low(w, "up", x) + w["bias"]) @ w["down"]


def two_on_up(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + low(w, "up", x) + 2 * low(w, "gate", x) - 1) @ w["down"]


def on_gate_and_up(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    gate = jax.nn.relu(x @ w["gate"] + low(w, "gate", x) - 1)
    return (gate * (x @ w["up"] + low(w, "up", x))) @ w["down"]


def on_up_alone(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return (jax.nn.relu(x @ w["gate"] - 1) * (x @ w["up"] + low(w, "up", x))) @ w["down"]


def on_all_three(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ w["gate"] + low(w, "gate", x) - 1) * (x @ w["up"] + low(w, "up", x))
    return h @ w["down"] + low(w, "down", h)


def on_down(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ w["up"] - 1)
    return h @ w["down"] + 0.5 * low(w, "down", h)


def one_for_each_request(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ w["up"] + picked(w, "up", x, ids) - 1) @ w["down"]


def one_for_each_request_on_both(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    gate = jax.nn.relu(x @ w["gate"] + picked(w, "gate", x, ids) - 1)
    return (gate * (x @ w["up"] + picked(w, "up", x, ids))) @ w["down"]


def fused(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
    """Gate and up in one kernel, adapted by one adapter (gemma's ``gating_einsum``)."""
    z = jnp.einsum("bd,dgf->bgf", x, jnp.stack([w["gate"], w["up"]], 1))
    z = z + jnp.einsum("br,rgf->bgf", x @ w["up_a"], w["both_b"])
    return (jax.nn.relu(z[:, 0] - 1) * z[:, 1]) @ w["down"]


BLOCKS: list[Block] = [
    on_up, scaled, with_a_bias, two_on_up, on_gate_and_up, on_up_alone, on_down, on_all_three,
    one_for_each_request, one_for_each_request_on_both, fused,
]  # fmt: skip


def weights(rng: np.random.Generator, layers: tuple[int, ...] = ()) -> Weights:
    def normal(*shape: int, inputs: int) -> jax.Array:
        return drawn(rng.normal(size=(*layers, *shape)) / np.sqrt(inputs), jnp.float32)

    w = {"up": normal(D, FF, inputs=D), "gate": normal(D, FF, inputs=D), "down": normal(FF, D, inputs=FF)}
    for name, (i, o) in {"up": (D, FF), "gate": (D, FF), "down": (FF, D)}.items():
        w |= {f"{name}_a": normal(i, RANK, inputs=i), f"{name}_b": normal(RANK, o, inputs=RANK)}
        w |= {f"{name}_as": normal(ADAPTERS, i, RANK, inputs=i), f"{name}_bs": normal(ADAPTERS, RANK, o, inputs=RANK)}
    w |= {"scales": jnp.ones((*layers, ADAPTERS)) * jnp.asarray([0.5, 1.0, 2.0])}
    return w | {"both_b": normal(RANK, 2, FF, inputs=RANK), "bias": normal(FF, inputs=1) - 1}


def inputs(rng: np.random.Generator, batch: int = BATCH) -> tuple[jax.Array, jax.Array]:
    return drawn(rng.normal(size=(batch, D)), jnp.float32), jnp.asarray([2, 0][:batch], jnp.int32)


def check(function: Block, rule: dict[str, Any], *arguments: Any) -> hire.Report:
    """Rewritten, and equal to dense."""
    step = hire.transform(jax.jit(function), hire.Config(rules=(hire.Rule(kind="ffn", **rule),)))
    got, report = step(*arguments), step.report()
    assert len(report.rewritten) == 1, report
    np.testing.assert_allclose(got, jax.jit(function)(*arguments), rtol=1e-5, atol=1e-5)
    return report


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_full_width_is_the_dense_block(block: Block, rng: np.random.Generator) -> None:
    check(block, {"predictor": hire.Quantized(), "density": 1.0}, weights(rng), *inputs(rng))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
@pytest.mark.parametrize("group", [1, 4])
def test_zeros_are_skipped_exactly(block: Block, group: int, rng: np.random.Generator) -> None:
    rule = {"predictor": hire.Exact(), "density": 0.75, "group": group}
    report = check(block, rule, weights(rng), *inputs(rng, 1))
    assert group > 1 or report.certificates[0].proven == 1  # few are active: the branch that skips ran


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("block", [on_up, on_gate_and_up, one_for_each_request, fused], ids=lambda b: b.__name__)
def test_adapted_neurons_are_predicted_with_what_the_adapter_adds(block: Block, rng: np.random.Generator) -> None:
    """The adapter is made strong: without its part another set of neurons would be chosen."""
    w = weights(rng)
    w = {name: 6 * value if "_b" in name else value for name, value in w.items()}
    check(block, {"predictor": hire.Quantized(), "density": 0.75, "group": 1}, w, *inputs(rng, 1))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("block", [unshifted, unshifted_for_each_request], ids=lambda b: b.__name__)
def test_a_certificate_counts_the_adapter(block: Block, rng: np.random.Generator) -> None:
    rule = {"predictor": hire.Quantized(), "density": 0.75, "group": 1, "certify": True}
    assert check(block, rule, weights(rng), *inputs(rng, 1)).certificates[0].proven == 1


@pytest.mark.parametrize("block", [on_gate_and_up, one_for_each_request], ids=lambda b: b.__name__)
def test_layers_of_a_scan(block: Block, rng: np.random.Generator) -> None:
    def function(w: Weights, x: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, layer: (h + block(layer, jnp.sin(h), ids), None), x, w)[0]

    report = check(function, {"predictor": hire.Quantized(), "density": 1.0}, weights(rng, (3,)), *inputs(rng))
    assert [site.repeat for site in report.sites] == [3]


def test_the_default_skips_zeros_of_an_adapted_block(rng: np.random.Generator) -> None:
    w, (x, ids) = weights(rng), inputs(rng)
    step = hire.transform(jax.jit(on_up))
    cpu = target_for("cpu")
    with stand_in(replace(cpu, costs=replace(cpu.costs, worth_bytes=0))):
        np.testing.assert_allclose(step(w, x, ids), jax.jit(on_up)(w, x, ids), rtol=1e-5, atol=1e-5)
    assert [decision.predictor for decision in step.report().rewritten] == ["Exact()"]


def test_what_adapts_the_last_product_is_computed_of_the_chosen_neurons(rng: np.random.Generator) -> None:
    w, (x, ids) = weights(rng), inputs(rng, 1)
    report = check(on_down, {"predictor": hire.Exact(), "density": 0.75, "group": 1}, w, x, ids)
    (site,), (decision,) = report.sites, report.decisions
    assert site.weights == ("w['up']", "w['down']", "w['down_a']")
    first, limits = 4 * D * FF, 4 * FF
    assert decision.sparse_bytes <= first + 0.75 * 4 * FF * (D + RANK) + limits  # nothing else reads the neurons


def test_products_of_another_input_are_no_adapter() -> None:
    def other(w: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w["up"] + jnp.cos(y) @ w["gate"]) @ w["down"]

    report = hire.inspect(other, weights(np.random.default_rng(0)), jnp.ones((1, D)), jnp.ones((1, D)))
    assert not report.sites
