"""Float32 weights that hold bfloat16 numbers only are kept and read as bfloat16: the same numbers, half the bytes."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.calling.halves import holds_halves
from hire_compiler.graph.weight import Weight

D, WIDTH, V = 128, 1024, 2048
BLOCK = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact(), candidates=256, group=1),))
HEAD = hire.Config(rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify=True),))


def block(w: dict[str, Any], x: Any) -> Any:
    return x + jax.nn.relu(x @ w["up"] - 2) @ w["down"]


def token(w: dict[str, Any], x: Any) -> Any:
    return jax.lax.top_k(x @ w["head"].T, 2)


def weights(rng: np.random.Generator, *, widened: bool = True) -> dict[str, Any]:
    shapes = {"up": (D, WIDTH), "down": (WIDTH, D), "head": (V, D)}
    w = {name: jnp.asarray(rng.standard_normal(s, np.float32) / 8) for name, s in shapes.items()}
    return {name: a.astype(jnp.bfloat16).astype(jnp.float32) for name, a in w.items()} if widened else w


def row(rng: np.random.Generator) -> Any:
    return jnp.asarray(rng.standard_normal((1, D), np.float32))


def kept(prepared: Any) -> set[str]:
    """The types in which rows are kept."""
    return {str(a.dtype) for arrays in prepared.values() for name, a in arrays.items() if name.startswith("rows")}


def check(step: Any, dense: Any, w: Any, x: Any) -> None:
    for got, wanted in zip(jax.tree.leaves(step(w, x)), jax.tree.leaves(dense(w, x)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("original", "config"), [(block, BLOCK), pytest.param(token, HEAD, marks=pytest.mark.slow)], ids=["block", "head"]
)
def test_weights_that_stop_being_bfloat16_numbers_are_kept_wide(
    rng: np.random.Generator, original: Any, config: hire.Config
) -> None:
    step, w, x = hire.transform(original, config), weights(rng), row(rng)
    check(step, original, w, x)
    decision = step.report().decisions[0]
    assert decision.kept == "bfloat16"
    assert "is a bfloat16 number, and is kept and read as one" in " ".join(str(step.report()).split())
    held = step.prepare(w, x)
    assert kept(held) == {"uint16"}

    others = weights(rng, widened=False)
    with pytest.warns(hire.HireWarning, match="kept as bfloat16, but .* holds numbers that bfloat16 lacks"):
        check(step, original, others, x)
    report = step.report()
    assert report.decisions[0].kept == ""
    assert report.decisions[0].sparse_bytes > decision.sparse_bytes
    assert "compiled anew" in " ".join(report.notes)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(step, original, w, x)  # to and fro, without compiling
        check(step, original, others, x)
        check(lambda w, x: step(w, x, prepared=held), original, w, x)  # what was prepared before still runs


@pytest.mark.slow
def test_a_head_whose_weight_is_computed_from_a_constant(rng: np.random.Generator) -> None:
    """What stands in front of the weight may begin with no argument at all."""
    dense = jax.jit(lambda w, x: jax.lax.top_k(x @ (0.5 * w).T, 2))
    step = hire.transform(dense, HEAD)
    w, x = weights(rng)["head"], row(rng)
    np.testing.assert_array_equal(step(w, x)[1], dense(w, x)[1])
    assert step.report().rewritten


@pytest.mark.slow
def test_a_scanned_stack(rng: np.random.Generator) -> None:
    def layers(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, one: (block(one, x), None), x, w)[0]

    stacked = {name: jnp.stack([a, a[::-1]]) for name, a in weights(rng).items() if name != "head"}
    step = hire.transform(layers, BLOCK)
    check(step, layers, stacked, row(rng))
    assert step.report().decisions[0].kept == "bfloat16"


@pytest.mark.slow
def test_the_whole_block_is_right_where_its_budget_fails(rng: np.random.Generator) -> None:
    def busy(w: Any, x: Any) -> Any:
        return jax.nn.relu(x @ w["up"]) @ w["down"]

    step = hire.transform(busy, BLOCK)
    check(step, busy, weights(rng), row(rng))
    assert step.report().certificates[0].proven == 0


def test_where_it_does_not_pay_or_is_not_known_weights_stay_wide(rng: np.random.Generator) -> None:
    w, x = weights(rng), row(rng)
    types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (w, x))
    greedy = hire.transform(lambda w, x: jnp.argmax(x @ w["head"].T, -1))
    reports = [
        hire.transform(block, hire.Config(rules=BLOCK.rules, halve=False)).report(w, x),
        hire.transform(block, BLOCK).report(w, jnp.concatenate([x, x])),
        hire.transform(block, BLOCK).report(*types),
        greedy.report({"head": jnp.tile(w["head"], (8, 1))}, x),  # strict: a doubt is the author's, in float32
    ]
    assert [[d.action, d.kept] for report in reports for d in report.decisions] == [["rewritten", ""]] * 4


@pytest.mark.slow
def test_traced_weights_are_kept_wide(rng: np.random.Generator) -> None:
    step, w, x = hire.transform(block, BLOCK), weights(rng), row(rng)
    check(step, block, w, x)
    with pytest.warns(hire.HireWarning, match="is not known here"):
        check(jax.jit(lambda w, x: step(w, x)), block, w, x)


@pytest.mark.slow
def test_a_compiled_step_refuses_other_numbers(rng: np.random.Generator) -> None:
    step, w, x = hire.transform(block, BLOCK), weights(rng), row(rng)
    compiled = step.lower(w, x).compile()
    check(compiled, block, w, x)
    with pytest.raises(hire.WeightError, match="lower it again"), pytest.warns(hire.HireWarning):
        compiled(weights(rng, widened=False), x)


@pytest.mark.parametrize(
    ("number", "fits"),
    [(1.0, True), (1 + 2**-7, True), (1 + 2**-8, False), (-0.0, True), (2.0**-126, True), (2.0**-127, False)],
)
def test_every_entry_is_looked_at(number: float, fits: bool) -> None:
    array = np.ones((64, 32), np.float32)
    array[63, 31] = number
    assert holds_halves(Weight(0, "w", array.shape, "float32"), [jnp.asarray(array)]) == fits
