"""Experts that are all computed: those that no row of a call uses are skipped, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.proofs.expert_zeros import seen
from hire_compiler.proofs.zeros import proven_zero, within

D, WIDTH, EXPERTS, CHOSEN = 32, 64, 8, 2
Params = dict[str, Any]
Layer = Callable[[Params, jax.Array], jax.Array]
RULES = hire.Config(rules=(hire.Rule(kind="experts", predictor=hire.Exact()),))


@pytest.fixture(scope="module")
def params() -> Params:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "gate": (EXPERTS, D, WIDTH), "up": (EXPERTS, D, WIDTH), "down": (EXPERTS, WIDTH, D), "router": (D, EXPERTS),
        "both": (EXPERTS, D, 2 * WIDTH), "up_bias": (EXPERTS, WIDTH), "both_bias": (EXPERTS, 2 * WIDTH),
        "down_bias": (EXPERTS, D),
    }  # fmt: skip
    drawn = {name: jnp.asarray(rng.standard_normal(s, np.float32) / s[-2] ** 0.5) for name, s in shapes.items()}
    turned = {f"{name}_rows": drawn[name].transpose(0, 2, 1) for name in ("gate", "up", "down")}
    return drawn | turned


def gates(p: Params, x: jax.Array) -> jax.Array:
    best, chosen = lax.top_k(jax.nn.softmax(x @ p["router"]), CHOSEN)
    return jnp.zeros((len(x), EXPERTS)).at[jnp.arange(len(x))[:, None], chosen].set(best / best.sum(-1, keepdims=True))


def gated(p: Params, x: jax.Array) -> jax.Array:
    return jax.nn.silu(jnp.einsum("bd,edf->bef", x, p["gate"])) * jnp.einsum("bd,edf->bef", x, p["up"])


def mixtral(p: Params, x: jax.Array) -> jax.Array:
    return jnp.einsum("bed,be->bd", jnp.einsum("bef,efd->bed", gated(p, x), p["down"]), gates(p, x))


def weighted_before_down(p: Params, x: jax.Array) -> jax.Array:
    return jnp.einsum("bef,efd->bd", gated(p, x) * gates(p, x)[..., None], p["down"])


def with_biases(p: Params, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(jnp.einsum("bd,edf->ebf", x, p["up"]) + p["up_bias"][:, None])
    y = jnp.einsum("ebf,efd->ebd", h, p["down"]) + p["down_bias"][:, None]
    return (y * gates(p, x).T[..., None]).sum(0)


def vmapped(p: Params, x: jax.Array) -> jax.Array:
    y = jax.vmap(lambda gate, up, down: (jax.nn.silu(x @ gate) * (x @ up)) @ down)(p["gate"], p["up"], p["down"])
    return jnp.einsum("ebd,be->bd", y, gates(p, x))


def one_hot_weights(p: Params, x: jax.Array) -> jax.Array:
    best, chosen = lax.top_k(jax.nn.softmax(x @ p["router"]), CHOSEN)
    weights = (jax.nn.one_hot(chosen, EXPERTS) * best[..., None]).sum(1)
    h = jax.nn.gelu(jnp.einsum("bd,edf->bef", x, p["up"]))
    return jnp.einsum("bef,efd,be->bd", h, p["down"], weights)


def dispatched(p: Params, x: jax.Array) -> jax.Array:
    """Every expert has room for so many rows as there are, and gets its own."""
    probabilities = jax.nn.softmax(x @ p["router"])
    mine = jax.nn.one_hot(lax.top_k(probabilities, CHOSEN)[1], EXPERTS).sum(1)
    place = (jnp.cumsum(mine, 0) * mine).astype(jnp.int32) - 1
    rows = jax.nn.one_hot(place, len(x)) * mine[..., None]
    inputs = jnp.einsum("bd,bec->ecd", x, rows)
    h = jax.nn.silu(jnp.einsum("ecd,edf->ecf", inputs, p["gate"])) * jnp.einsum("ecd,edf->ecf", inputs, p["up"])
    return jnp.einsum("ecd,bec->bd", jnp.einsum("ecf,efd->ecd", h, p["down"]), rows * probabilities[..., None])


def gpt_oss(p: Params, x: jax.Array) -> jax.Array:
    both = jnp.matmul(jnp.repeat(x[None], EXPERTS, 0), p["both"]) + p["both_bias"][:, None]
    gate, up = jnp.minimum(both[..., ::2], 7.0), jnp.clip(both[..., 1::2], -7.0, 7.0)
    y = jnp.matmul((up + 1) * gate * jax.nn.sigmoid(1.702 * gate), p["down"]) + p["down_bias"][:, None]
    return (y * gates(p, x).T[..., None]).sum(0)


def by_rank(p: Params, x: jax.Array) -> jax.Array:
    probabilities = jax.nn.softmax(x @ p["router"])
    weights = jnp.where(probabilities >= lax.top_k(probabilities, CHOSEN)[0][:, -1:], probabilities, 0.0)
    h = jax.nn.silu(jnp.einsum("bd,efd->bef", x, p["gate_rows"])) * jnp.einsum("bd,efd->bef", x, p["up_rows"])
    return jnp.einsum("bed,be->bd", jnp.einsum("bef,edf->bed", h, p["down_rows"]), weights)


SPELLED: dict[str, Layer] = {
    f.__name__: f
    for f in (
        mixtral, weighted_before_down, with_biases, vmapped, one_hot_weights, dispatched, gpt_oss, by_rank,
    )
}  # fmt: skip


def rows(count: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, D), np.float32))


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_layer_of_experts_is_a_site_however_it_is_spelled(spelled: str, params: Params) -> None:
    report = hire.inspect(SPELLED[spelled], params, rows(2))
    (site,) = report.sites
    assert (site.kind, site.width, site.d, site.batch) == ("experts", EXPERTS, D, 2)
    assert site.selection == f"choice of {CHOSEN}"
    assert "a router: it scores 8 experts" in [miss.reason for miss in report.misses]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "spelled", ["mixtral", "gpt_oss", *(pytest.param(s, marks=pytest.mark.slow) for s in SPELLED if s[0] not in "mg")]
)
def test_what_is_skipped_is_nothing(spelled: str, batch: int, params: Params) -> None:
    layer, x = SPELLED[spelled], rows(batch)
    step = hire.transform(jax.jit(layer), RULES)
    wide = jax.tree.map(lambda w: w.astype(np.float32), params)
    np.testing.assert_allclose(step(params, x), layer(wide, x), rtol=2e-5, atol=2e-6)
    (proof,) = step.report().certificates
    assert (proof.rows, proof.proven) == (batch, batch)
    (decision,) = step.report().decisions
    assert decision.sparse_bytes < 0.6 * decision.dense_bytes
    assert decision.added_bytes == 0  # every weight is read where it lies


@pytest.mark.slow
def test_bfloat16_experts_are_read_as_they_are_stored(params: Params) -> None:
    narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    x = rows(1).astype(jnp.bfloat16)
    step = hire.transform(jax.jit(mixtral), RULES)
    got, wanted = (np.asarray(f(narrow, x), np.float32) for f in (step, jax.jit(mixtral)))
    np.testing.assert_allclose(got, wanted, atol=2e-2 * np.abs(wanted).max())
    assert step.report().decisions[0].added_bytes == 0
    assert step.report().certificates[0].proven == 1


def test_an_input_that_is_no_number_makes_of_every_expert_what_dense_makes(params: Params) -> None:
    step = hire.transform(jax.jit(mixtral), RULES)
    for x in (rows(1).at[0, 0].set(jnp.nan), rows(1).at[0, 3].set(jnp.inf), rows(1) * 1e30):
        np.testing.assert_allclose(step(params, x), jax.jit(mixtral)(params, x), rtol=2e-5)
    (proof,) = step.report().certificates
    assert proof.proven == 0  # 0 · NaN is NaN: no expert was skipped


def test_a_weight_that_is_no_number_makes_its_own_expert_needed(params: Params) -> None:
    x = rows(1)
    unused = int(np.flatnonzero(np.asarray(gates(params, x))[0] == 0)[0])
    step = hire.transform(jax.jit(mixtral), hire.Config(rules=RULES.rules, check_weights=False))
    hurt = params | {"down": params["down"].at[unused, 0, 5].set(jnp.inf)}
    got, wanted = step(hurt, x), jax.jit(mixtral)(hurt, x)
    assert np.isnan(wanted).sum() == 1
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)
    (proof,) = step.report().certificates
    assert proof.proven == 1  # the others are skipped still


def test_stacked_layers_in_a_scan_are_one_site(params: Params) -> None:
    names = ("gate", "up", "down", "router")
    stack = {
        name: jnp.stack([params[name], params[name][::-1] if name != "router" else params[name]]) for name in names
    }

    def model(p: Params, x: jax.Array) -> jax.Array:
        return lax.scan(lambda x, layer: (x + mixtral(layer, x), None), x, p)[0]

    step = hire.transform(jax.jit(model), RULES)
    np.testing.assert_allclose(step(stack, rows(1)), model(stack, rows(1)), rtol=2e-5, atol=2e-6)
    (site,) = step.report().sites
    assert site.repeat == 2


def test_by_default_experts_are_skipped_where_a_batch_leaves_enough() -> None:
    def shapes(batch: int) -> Any:
        sizes = {"gate": (8, 256, 512), "up": (8, 256, 512), "down": (8, 512, 256), "router": (256, 8)}
        p = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}
        return hire.transform(jax.jit(mixtral)).report(p, jax.ShapeDtypeStruct((batch, 256), jnp.float32))

    assert [d.candidates for d in shapes(1).decisions] == [2]
    assert [d.candidates for d in shapes(4).decisions] == [6]
    (left,) = shapes(8).decisions
    assert "the 8 rows of a call use about 7.2 of its 8 experts between them: no skip would pay" in left.reason


def misses(layer: Layer, params: Params) -> dict[str, str]:
    report = hire.inspect(layer, params, rows(2))
    assert not [site for site in report.sites if site.kind == "experts"]
    return {miss.weight.split("'")[1]: miss.reason for miss in report.misses}


def test_experts_of_a_soft_mixture_are_all_needed(params: Params) -> None:
    def soft(p: Params, x: jax.Array) -> jax.Array:
        return jnp.einsum("bef,efd,be->bd", gated(p, x), p["down"], jax.nn.softmax(x @ p["router"]))

    said = misses(soft, params)
    assert set(said) == {"gate", "up", "down", "router"}
    assert all(f"a soft mixture of {EXPERTS} experts: none of their weights" in reason for reason in said.values())


def test_experts_that_an_argument_weighs_say_so(params: Params) -> None:
    def given(p: Params, x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.einsum("bef,efd,be->bd", gated(p, x), p["down"], weights)

    said = {miss.weight: miss.reason for miss in hire.inspect(given, params, rows(2), jnp.ones((2, EXPERTS))).misses}
    assert all("what weighs them is an argument" in said[f"p['{name}']"] for name in ("gate", "up", "down")), said


def test_experts_that_are_mixed_into_one_matrix_are_another_weight_in_each_call(params: Params) -> None:
    def merged(p: Params, x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(x @ p["router"])
        up, down = (jnp.einsum("be,eij->bij", weights, p[name]) for name in ("up", "down"))
        return jnp.einsum("bf,bfd->bd", jax.nn.relu(jnp.einsum("bd,bdf->bf", x, up)), down)

    said = {miss.weight: miss.reason for miss in hire.inspect(merged, params, rows(2)).misses}
    mixed = f"it mixes {EXPERTS} matrices by numbers of the call"
    assert all(mixed in said[f"p['{name}']"] for name in ("up", "down")), said


def test_experts_whose_weight_is_added_and_not_multiplied_are_all_needed(params: Params) -> None:
    def added(p: Params, x: jax.Array) -> jax.Array:
        return (jnp.einsum("bef,efd->bed", gated(p, x), p["down"]) + gates(p, x)[..., None]).sum(1)

    misses(added, params)


def test_experts_that_somebody_reads_are_all_needed(params: Params) -> None:
    def watched(p: Params, x: jax.Array) -> Any:
        h = gated(p, x)
        y = jnp.einsum("bef,efd->bed", h, p["down"])
        return jnp.einsum("bed,be->bd", y, gates(p, x)), jnp.abs(h).max()

    assert "other code also reads what each of them makes" in misses(watched, params)["down"]  # type: ignore[arg-type]


def quantised(params: Params) -> Params:
    """int8, a scale for each output of each expert."""
    found = {"router": params["router"]}
    for name in ("gate", "up", "down"):
        scale = jnp.abs(params[name]).max(1, keepdims=True) / 127
        found |= {name: jnp.round(params[name] / scale).astype(jnp.int8), f"{name}_scale": scale}
    return found


def scaled_before(p: Params, x: jax.Array) -> jax.Array:
    whole = {name: p[name].astype(jnp.float32) * p[f"{name}_scale"] for name in ("gate", "up", "down")}
    return mixtral(p | whole, x)


def scaled_after(p: Params, x: jax.Array) -> jax.Array:
    def product(spec: str, x: jax.Array, name: str) -> jax.Array:
        return jnp.einsum(spec, x, p[name].astype(jnp.float32)) * p[f"{name}_scale"][:, 0]

    h = jax.nn.silu(product("bd,edf->bef", x, "gate")) * product("bd,edf->bef", x, "up")
    return jnp.einsum("bed,be->bd", product("bef,efd->bed", h, "down"), gates(p, x))


def in_layers(p: Params, x: jax.Array) -> jax.Array:
    return lax.scan(lambda x, layer: (x + scaled_before(layer, x), None), x, p)[0]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [pytest.param(scaled_before, marks=pytest.mark.slow), scaled_after, in_layers])
def test_narrow_experts_are_read_as_they_are_stored(layer: Layer, params: Params) -> None:
    narrow, x = quantised(params), rows(1)
    if layer is in_layers:
        narrow = jax.tree.map(lambda w: jnp.stack([w, w * 2 if w.dtype == jnp.float32 else w]), narrow)
    step = hire.transform(jax.jit(layer), RULES)
    np.testing.assert_allclose(step(narrow, x), jax.jit(layer)(narrow, x), rtol=2e-5, atol=2e-6)
    (site,), (decision,), (proof,) = step.report().sites, step.report().decisions, step.report().certificates
    assert (site.dtype, site.computed) == ("int8", "float32")
    assert (proof.proven, decision.added_bytes) == (proof.rows, 0)
    assert decision.dense_bytes < 1.2 * 3 * EXPERTS * D * WIDTH  # a byte for each number, and scales


def test_experts_whose_inputs_are_quantised_too_say_so(params: Params) -> None:
    def whole(p: Params, x: jax.Array) -> jax.Array:
        sums = lax.dot_general(x, p["up"], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
        h = jax.nn.relu(sums.astype(jnp.float32) * p["up_scale"][:, 0])
        return jnp.einsum("bef,efd,be->bd", h, p["down"].astype(jnp.float32), gates(p, x.astype(jnp.float32)))

    report = hire.inspect(whole, quantised(params), jax.ShapeDtypeStruct((2, D), jnp.int8))
    reasons = {miss.weight: miss.reason for miss in report.misses}
    assert "their inputs are quantised, too" in reasons["p['up']"], reasons


def test_experts_that_are_normalised_among_each_other_are_all_needed(params: Params) -> None:
    def normalised(p: Params, x: jax.Array) -> jax.Array:
        y = jnp.einsum("bef,efd->bed", gated(p, x), p["down"])
        return jnp.einsum("bed,be->bd", y / jnp.abs(y).max(axis=1, keepdims=True), gates(p, x))

    misses(normalised, params)


def test_a_rule_for_experts_predicts_nothing() -> None:
    with pytest.raises(hire.ConfigError, match="nothing is predicted: use Exact"):
        hire.Rule(kind="experts", predictor=hire.Quantized(bits=8), density=0.5)


def test_a_sigmoid_whose_exponential_overflows_is_finite_still() -> None:
    lines = [("negate", 0), ("exponential", 2), ("constant", 1.0), ("add", 3, 4), ("divide", 4, 5), ("multiply", 6, 1)]
    code = tuple(
        Instruction(op, (), "float32", args[0]) if op == "constant" else Instruction(op, args, "float32")  # type: ignore[arg-type]
        for op, *rest in lines
        for args in [tuple(rest)]
    )
    silu = Expression(2, code, 7)
    zero = seen(np.zeros(3, np.float32), None, np)
    assert proven_zero(silu, {0: within(np.asarray(1000.0)), 1: zero}, np)
    assert not proven_zero(silu, {0: within(np.asarray(np.inf)), 1: zero}, np)
    unsure = (*code[:3], Instruction("subtract", (3, 4), "float32"), *code[4:])  # exp(−z) − 1 may be zero
    assert not proven_zero(Expression(2, unsure, 7), {0: within(np.asarray(1000.0)), 1: zero}, np)
