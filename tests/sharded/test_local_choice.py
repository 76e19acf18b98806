"""DaT-Top-k through ``transform``: every shard chooses by itself, and what the shards say to each other is little."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import hire_compiler as hire
from hire_compiler.sharding.recall import expected_recall
from tests.sharded.programs import MESHES, batch_axis, mesh_of, place, random, talk

D, WIDTH, VOCABULARY, BATCH = 64, 512, 4096, 4
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}


def ffn(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["up"] + params["bias"]) @ params["down"]


def gated_stack(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        return x + (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"], None

    return jax.lax.scan(layer, x, params)[0]


def greedy(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ params["embed"].T + params["bias"], axis=-1)


def best_eight(params: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(x @ params["embed"].T, 8)


def logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.log_softmax((x @ params["embed"].T).astype(jnp.float32), axis=-1)


def ffn_arguments(rng: np.random.Generator, mesh: Mesh, dtype: Any = jnp.float32) -> tuple[Any, jax.Array]:
    params = {
        "up": place(mesh, random(rng, WIDTH, D, dtype=dtype).T, None, "model"),
        "bias": place(mesh, random(rng, WIDTH, dtype=dtype), "model"),
        "down": place(mesh, random(rng, WIDTH, D, dtype=dtype), "model", None),
    }
    return params, place(mesh, random(rng, BATCH, D, dtype=dtype), batch_axis(mesh))


def stack_arguments(rng: np.random.Generator, mesh: Mesh, dtype: Any) -> tuple[Any, jax.Array]:
    params = {
        "gate": place(mesh, random(rng, 3, D, WIDTH, dtype=dtype), None, None, "model"),
        "up": place(mesh, random(rng, 3, D, WIDTH, dtype=dtype), None, None, "model"),
        "down": place(mesh, random(rng, 3, WIDTH, D, dtype=dtype), None, "model", None),
    }
    return params, place(mesh, random(rng, BATCH, D, dtype=dtype), batch_axis(mesh))


def head_arguments(
    rng: np.random.Generator, mesh: Mesh, dtype: Any = jnp.float32, by: str = "vocabulary"
) -> tuple[Any, jax.Array]:
    split = {"vocabulary": ("model", None), "d": (None, "model"), "nothing": ()}[by]
    params = {
        "embed": place(mesh, random(rng, VOCABULARY, D, dtype=dtype), *split),
        "bias": place(mesh, random(rng, VOCABULARY, dtype=dtype)),
    }
    return params, place(mesh, random(rng, BATCH, D, dtype=dtype) * 8, batch_axis(mesh))


def rules(kind: Any, **options: Any) -> hire.Config:
    return hire.Config(rules=(hire.Rule(kind=kind, predictor=hire.Quantized(bits=8), **options),))


def close(got: Any, want: Any, dtype: str) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        one, other = (np.asarray(a.astype(jnp.float32)) for a in (one, other))
        assert np.abs(one - other).max() <= TOLERANCE[dtype] * max(1.0, np.abs(other).max())


@pytest.mark.diagonal
@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [
        pytest.param(mesh, dtype, marks=[] if (mesh in ("8", "2x2")) == (dtype == "bfloat16") else pytest.mark.slow)
        for mesh in MESHES
        for dtype in ("float32", "bfloat16")
    ],
)
@pytest.mark.parametrize("program", ["ffn", "stack", "top_k", "logits"])
def test_at_full_width_shards_equal_dense(rng: np.random.Generator, program: str, mesh: str, dtype: str) -> None:
    devices, kind = mesh_of(mesh), jnp.dtype(dtype)
    if program in ("ffn", "stack"):
        function = ffn if program == "ffn" else gated_stack
        params, x = (ffn_arguments if program == "ffn" else stack_arguments)(rng, devices, kind)
        config = rules("ffn", density=1.0)
    else:
        function = best_eight if program == "top_k" else logits
        params, x = head_arguments(rng, devices, kind)
        config = rules("head", density=1.0)
    step = hire.transform(jax.jit(function), config)
    got = step(params, x)
    (decision,) = step.report().rewritten
    assert decision.shards == devices.shape["model"]
    close(got, jax.jit(function)(params, x), dtype)
    assert all(a.sharding.num_devices == devices.size for a in jax.tree.leaves(got))


@pytest.mark.diagonal
@pytest.mark.parametrize("by", ["vocabulary", "d", "nothing"])
@pytest.mark.parametrize("mesh", ["4", "2x4"])
def test_tokens_equal_dense_however_the_head_is_split(rng: np.random.Generator, mesh: str, by: str) -> None:
    params, x = head_arguments(rng, mesh_of(mesh), by=by)
    step = hire.transform(jax.jit(greedy), rules("head", candidates=256))
    assert np.array_equal(step(params, x), jax.jit(greedy)(params, x))
    (decision,) = step.report().rewritten
    assert decision.shards == (1 if by == "nothing" else 4)


@pytest.mark.diagonal(keep=2)
@pytest.mark.parametrize("mesh", ["4", "8", "2x2"])
def test_equal_logits_are_ordered_as_dense_orders_them(rng: np.random.Generator, mesh: str) -> None:
    params, x = head_arguments(rng, mesh_of(mesh))
    row = params["embed"][7] * 3
    for twin in (4095, 1024, 1023, 2048):  # in different shards, and on both sides of a border
        params["embed"] = params["embed"].at[twin].set(row)
    params["embed"] = place(mesh_of(mesh), params["embed"], "model", None)
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=512))
    got, want = step(params, x)[1], jax.jit(best_eight)(params, x)[1]
    assert np.array_equal(got, want)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("group", [1, 8])
def test_recall_at_working_width_is_the_closed_form(rng: np.random.Generator, group: int) -> None:
    """Counted through the program: every neuron adds 1 to one output if it is computed, and ReLU lets all pass."""
    mesh, wanted, trials = mesh_of("8"), 48 // (1 if group == 1 else 2), 40
    total = WIDTH // group
    config = hire.Config(
        rules=(hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), candidates=wanted * group, group=group),),
        shard_recall=0.9,
    )
    step = hire.transform(jax.jit(ffn), config)
    found = []
    for _ in range(trials):
        # One input, one number a neuron: its product ranks it, and group by group the ranking is a random placement.
        score = np.repeat(rng.permutation(total) + 1.0, group)
        among_the_best = (score > total - wanted) / score  # times its own product, 1
        params = {
            "up": place(mesh, jnp.asarray(score * np.eye(16, 1), jnp.float32), None, "model"),
            "bias": place(mesh, jnp.zeros(WIDTH), "model"),
            "down": place(mesh, jnp.asarray(among_the_best[:, None] * np.eye(1, 16), jnp.float32), "model", None),
        }
        x = place(mesh, jnp.eye(1, 16))
        found.append(float(step(params, x)[0, 0]) / (wanted * group))
    (decision,) = step.report().rewritten
    kept = decision.candidates // decision.shards // group
    closed = expected_recall(total, wanted, 8, kept)
    assert decision.shard_recall == closed
    assert 0.9 <= closed < 0.999
    assert np.mean(found) == pytest.approx(closed, abs=4 * np.std(found) / np.sqrt(trials) + 1e-3)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [
        pytest.param(
            mesh, dtype, marks=[] if (mesh, dtype) in (("8", "float32"), ("2x4", "bfloat16")) else pytest.mark.slow
        )
        for mesh in MESHES
        for dtype in ("float32", "bfloat16")
    ],
)
def test_recall_of_a_head_at_working_width_is_the_closed_form(rng: np.random.Generator, mesh: str, dtype: str) -> None:
    """Rows in random order: what is computed exactly of the true top 64 is what the closed form says."""
    devices, wanted, trials = mesh_of(mesh), 64, 24
    params, _ = head_arguments(rng, devices, jnp.dtype(dtype))
    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=wanted, tail="dropped")
    step = hire.transform(jax.jit(logits), hire.Config(rules=(rule,), shard_recall=0.9))
    embed = np.asarray(params["embed"].astype(jnp.float32), np.float64)
    found = []
    for _ in range(trials):
        x = place(devices, random(rng, BATCH, D, dtype=jnp.dtype(dtype)) * 8, batch_axis(devices))
        kept = np.isfinite(np.asarray(step(params, x)))
        best = np.argsort(-(np.asarray(x.astype(jnp.float32), np.float64) @ embed.T), axis=1)[:, :wanted]
        found += [float(row[ids].mean()) for row, ids in zip(kept, best, strict=True)]
    (decision,) = step.report().rewritten
    closed = expected_recall(VOCABULARY, wanted, decision.shards, decision.candidates // decision.shards)
    assert decision.shard_recall == closed
    assert 0.9 <= closed < 0.99
    # An int8 copy also takes one row for another now and then, at the border of the candidates.
    assert np.mean(found) == pytest.approx(closed, abs=4 * np.std(found) / np.sqrt(len(found)) + 5e-3)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("mesh", ["4", "2x4"])
def test_no_scores_and_no_rows_travel(rng: np.random.Generator, mesh: str) -> None:
    devices = mesh_of(mesh)
    local = BATCH // devices.shape.get("data", 1)
    params, x = ffn_arguments(rng, devices)
    step = hire.transform(jax.jit(ffn), rules("ffn", density=0.1))
    assert [(c.kind, c.result_bytes) for c in talk(step, params, x)] == [("all-reduce", local * D * 4)]
    params, x = head_arguments(rng, devices)
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=64))
    pairs = ("all-gather", local * 4 * 8 * (4 + 4))  # values and rows travel together
    assert [(c.kind, c.result_bytes) for c in talk(step, params, x)] == [pairs]
    vanilla = hire.transform(jax.jit(best_eight), hire.Config(rules=step._config.rules, sharded="vanilla"))
    assert sum(c.wire_bytes for c in talk(vanilla, params, x)) > 10 * sum(c.wire_bytes for c in talk(step, params, x))


@pytest.mark.parametrize("predictor", [hire.Quantized(bits=8), hire.LowRank(rank=16)])
def test_preparing_moves_nothing_between_devices(rng: np.random.Generator, predictor: Any) -> None:
    params, x = head_arguments(rng, mesh_of("8"))
    config = hire.Config(rules=(hire.Rule(kind="head", predictor=predictor, candidates=64),))
    step = hire.transform(jax.jit(best_eight), config)
    prepared = step.prepare(params, x)
    ((compiled,),) = step._steps._steps.values()
    for preparation in compiled.spliced.preparations.values():
        found = talk(jax.jit(preparation.build), *(jax.tree.leaves(params)[i] for i in preparation.arguments))
        assert found == ()
    for arrays in prepared.values():
        for array in arrays.values():
            assert len({str(shard.index) for shard in array.addressable_shards}) == 8  # none is held whole


def test_a_head_split_over_d_is_turned_without_being_gathered(rng: np.random.Generator) -> None:
    params, x = head_arguments(rng, mesh_of("4"), by="d")
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=64))
    step(params, x)
    ((compiled,),) = step._steps._steps.values()
    (preparation,) = compiled.spliced.preparations.values()
    whole = VOCABULARY * D * 4
    for one in talk(jax.jit(preparation.build), params["embed"]):
        assert one.kind == "all-to-all"
        assert one.result_bytes <= whole // 4


def test_explicit_axes_of_a_mesh(rng: np.random.Generator) -> None:
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:4])
    params, x = head_arguments(rng, mesh)

    def rated(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        scores = jnp.einsum("bd,vd->bv", x, params["embed"], out_sharding=jax.P(None, "model"))
        return jnp.argmax(jax.sharding.reshard(scores, jax.P()), axis=-1)

    step = hire.transform(jax.jit(rated), rules("head", candidates=256))
    with jax.set_mesh(mesh):
        assert np.array_equal(step(params, x), jax.jit(rated)(params, x))
    assert [d.shards for d in step.report().rewritten] == [4]


def test_weights_split_over_the_models_width_stay_dense(rng: np.random.Generator) -> None:
    params, x = ffn_arguments(rng, mesh_of("2x4"))
    params["up"] = place(mesh_of("2x4"), params["up"], "data", "model")  # FSDP and tensor parallel
    step = hire.transform(jax.jit(ffn), rules("ffn", density=0.1))
    close(step(params, x), jax.jit(ffn)(params, x), "float32")
    (decision,) = step.report().decisions
    assert decision.action == "dense"
    assert "every device has to gather" in decision.reason


def test_the_same_weights_elsewhere_are_planned_anew(rng: np.random.Generator) -> None:
    params, x = head_arguments(rng, mesh_of("4"))
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=512))
    want = jax.jit(best_eight)(params, x)[1]
    assert np.array_equal(step(params, x)[1], want)
    prepared = step.prepare(params, x)
    moved = {
        name: place(mesh_of("8"), array, *(("model", None) if name == "embed" else ()))
        for name, array in params.items()
    }
    there = place(mesh_of("8"), x)
    assert np.array_equal(step(moved, there)[1], want)
    assert step.report().rewritten[0].shards == 8
    with pytest.raises(hire.HireError, match="made for the mesh model=4 and the weights lie on the mesh model=8"):
        step(moved, there, prepared=prepared)
    single = jax.device_put(params, jax.devices()[0]), jax.device_put(x, jax.devices()[0])
    assert np.array_equal(step(*single)[1], want)
    assert step.report().rewritten[0].shards == 1


def test_inside_an_outer_jit_with_prepared_weights(rng: np.random.Generator) -> None:
    params, x = head_arguments(rng, mesh_of("4"))
    step = hire.transform(jax.jit(best_eight), rules("head", candidates=256))
    prepared = step.prepare(params, x)
    outer = jax.jit(lambda p, x, q: step(p, x, prepared=q))
    got, want = outer(params, x, prepared), jax.jit(best_eight)(params, x)
    assert np.array_equal(got[1], want[1])
    found = talk(outer, params, x, prepared)
    assert {c.kind for c in found} == {"all-gather"}
    assert max(c.result_bytes for c in found) == BATCH * 4 * 8 * (4 + 4)


def test_exact_blocks_skip_on_every_shard(rng: np.random.Generator) -> None:
    params, x = ffn_arguments(rng, mesh_of("2x4"))
    params["bias"] = params["bias"] - 2.0  # few neurons fire
    config = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.5, group=1),))
    step = hire.transform(jax.jit(ffn), config)
    close(step(params, x), jax.jit(ffn)(params, x), "float32")
    report = step.report()
    assert [d.shards for d in report.rewritten] == [4]
    assert [c.rows for c in report.certificates] == [BATCH]
    assert report.certificates[0].proven == BATCH
