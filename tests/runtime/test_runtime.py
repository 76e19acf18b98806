"""The runtime alone: ordinary JAX functions on arrays, against float64 NumPy. Nothing is compiled or matched here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hire_compiler.runtime.ffn import Form, select_groups, sparse_ffn
from hire_compiler.runtime.logits import candidate_logits, exact_logits, fill_tail, select_candidates
from hire_compiler.runtime.low_rank import prepare_low_rank
from hire_compiler.runtime.predictors import predict
from hire_compiler.runtime.quantized import prepare_quantized
from hire_compiler.runtime.stored_rows import StoredRows
from hire_compiler.runtime.target import Target, columns_dot, for_each_row, load, rows_dot, store, take_rows, target_for
from hire_compiler.runtime.topk import top_candidates, top_groups
from tests.support.drawn import drawn

Array = np.ndarray

N, D = 96, 12
TARGETS = {
    "cpu": target_for("cpu"),
    "gpu": target_for("gpu"),
    "tpu": target_for("tpu"),
    "cpu, small cache": replace(target_for("cpu"), gathered_rows=16),
}
on_every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
in_every_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])


def wide(array: Any) -> Array:
    return np.asarray(array).astype(np.float64)


def random(rng: np.random.Generator, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return drawn(rng.normal(size=shape), dtype)


def stored(arrays: dict[str, jax.Array], target: Target) -> dict[str, jax.Array]:
    return {name: store(array, target) for name, array in arrays.items()}


# --------------------------------------------------------------------------- predictors


@in_every_type
def test_the_int8_copy_is_within_half_a_step_of_every_weight(dtype: Any, rng: np.random.Generator) -> None:
    rows = random(rng, N, D, dtype=dtype) * jnp.asarray(10.0 ** rng.integers(-3, 3, (N, 1)), dtype)
    made = prepare_quantized(rows)
    assert (made["q"].dtype, made["scale"].dtype) == (jnp.int8, jnp.float32)
    copy = wide(made["q"]) * wide(made["scale"])[:, None]
    step = wide(made["scale"])[:, None]
    assert (np.abs(copy - wide(rows)) <= 0.5001 * step + 1e-12).all()
    assert (np.abs(wide(made["q"])).max(axis=1) == 127).all()  # every row uses the whole range


def test_the_int8_copy_of_a_zero_row_is_zero(rng: np.random.Generator) -> None:
    made = prepare_quantized(random(rng, 4, D).at[2].set(0))
    assert made["scale"][2] == 0
    assert not made["q"][2].any()
    assert made["q"][1].any()


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e20, 1e37])
def test_the_int8_copy_of_tiny_and_of_huge_weights_is_finite(size: float, rng: np.random.Generator) -> None:
    rows = random(rng, 4, D) * size
    made = prepare_quantized(rows)
    copy = wide(made["q"]) * wide(made["scale"])[:, None]
    assert np.isfinite(copy).all()
    np.testing.assert_allclose(copy, wide(rows), atol=0.02 * size if size > 1e-30 else size * 5)


@pytest.mark.diagonal
@on_every_target
@pytest.mark.parametrize("batch", [1, 3, 11])
def test_quantized_scores_are_those_of_the_copy(target: Target, batch: int, rng: np.random.Generator) -> None:
    made, x = prepare_quantized(random(rng, N, D)), random(rng, batch, D)
    wanted = wide(x) @ (wide(made["q"]) * wide(made["scale"])[:, None]).T
    got = predict(x, stored(made, target), target)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.diagonal(keep=3)
@on_every_target
@pytest.mark.parametrize("batch", [1, 3, 11])
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_low_rank_scores_are_those_of_the_factors(
    target: Target, batch: int, storage: str, rng: np.random.Generator
) -> None:
    made, x = prepare_low_rank(random(rng, N, D), 5, None, storage), random(rng, batch, D)
    assert made["b"].dtype == storage
    wanted = wide(x) @ wide(made["a"]) @ wide(made["b"]).T
    np.testing.assert_allclose(predict(x, stored(made, target), target), wanted, rtol=1e-4, atol=1e-4)


@in_every_type
def test_factors_of_full_rank_are_the_weight(dtype: Any, rng: np.random.Generator) -> None:
    rows = random(rng, N, D, dtype=dtype)
    made = prepare_low_rank(rows, D, None, "float32")
    np.testing.assert_allclose(wide(made["b"]) @ wide(made["a"]).T, wide(rows), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_without_a_moment_the_factors_are_the_best_of_their_rank(rank: int, rng: np.random.Generator) -> None:
    rows = random(rng, N, D) * jnp.asarray(np.geomspace(1, 0.05, D), jnp.float32)
    made = prepare_low_rank(rows, rank, None, "float32")
    assert made["a"].shape == (D, rank)
    assert made["b"].shape == (N, rank)
    left, values, right = np.linalg.svd(wide(rows), full_matrices=False)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(wide(made["b"]) @ wide(made["a"]).T, best, atol=1e-3)


def test_with_a_moment_the_factors_are_the_best_for_the_scores(rng: np.random.Generator) -> None:
    rows = wide(random(rng, N, D))
    inputs = rng.normal(size=(4000, D)) * np.geomspace(1, 0.02, D) @ rng.normal(size=(D, D))
    moment = inputs.T @ inputs / len(inputs)

    def error(copy: Array) -> float:
        return float(np.mean((inputs @ (rows - copy).T) ** 2))

    def copy(moment: Any) -> Array:
        made = prepare_low_rank(jnp.asarray(rows, jnp.float32), 3, moment, "float32")
        return wide(made["b"]) @ wide(made["a"]).T

    root = np.linalg.cholesky(moment + 1e-3 * np.trace(moment) / D * np.eye(D))
    left, values, right = np.linalg.svd(rows @ root, full_matrices=False)
    best = (left[:, :3] * values[:3]) @ right[:3] @ np.linalg.inv(root)
    assert error(copy(jnp.asarray(moment, jnp.float32))) <= 1.01 * error(best)
    assert error(copy(jnp.asarray(moment, jnp.float32))) < 0.9 * error(copy(None))


def test_directions_that_calibration_never_saw_are_not_thrown_away(rng: np.random.Generator) -> None:
    seen = np.zeros((D, D))
    seen[0, 0] = 1.0
    made = prepare_low_rank(random(rng, N, D), 4, jnp.asarray(seen, jnp.float32), "float32")
    assert all(np.isfinite(array).all() for array in made.values())
    scores = predict(random(rng, 3, D).at[:, 0].set(0), made, target_for("cpu"))
    assert np.abs(scores).max() > 1e-2


@pytest.mark.slow
def test_large_weights_keep_nearly_all_of_the_best_factors_energy(rng: np.random.Generator) -> None:
    d, rank = 1100, 40  # above 1024 the decomposition is a subspace iteration
    rows = rng.normal(size=(1500, d)) @ np.diag(np.geomspace(1, 0.01, d))
    made = prepare_low_rank(jnp.asarray(rows, jnp.float32), rank, None, "float32")
    lost = np.sum((rows - wide(made["b"]) @ wide(made["a"]).T) ** 2)
    least = np.sum(np.linalg.svd(rows, compute_uv=False)[rank:] ** 2)
    assert least <= lost <= 1.01 * least


@pytest.mark.diagonal
@on_every_target
@pytest.mark.parametrize("make", [prepare_quantized, lambda rows: prepare_low_rank(rows, 4, None, "bfloat16")])
def test_a_layer_of_a_stack_predicts_as_the_layer_alone(
    target: Target, make: Callable[[jax.Array], dict[str, jax.Array]], rng: np.random.Generator
) -> None:
    layers, x = [make(random(rng, N, D)) for _ in range(3)], random(rng, 2, D)
    stack = stored({name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}, target)
    for i, layer in enumerate(layers):
        wanted = predict(x, stored(layer, target), target)
        np.testing.assert_allclose(predict(x, stack, target, jnp.int32(i)), wanted, rtol=1e-6)
    assert np.abs(predict(x, stack, target, jnp.int32(0)) - predict(x, stack, target, jnp.int32(1))).max() > 0.1


# --------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("k", [1, 7, 50, N])
def test_candidates_are_the_best_columns_in_ascending_order(k: int, rng: np.random.Generator) -> None:
    scores = rng.normal(size=(5, N)).astype(np.float32)
    ids = np.asarray(top_candidates(jnp.asarray(scores), k))
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, np.sort(np.argsort(-scores, axis=1)[:, :k], axis=1))


def test_candidates_among_equals_are_the_lowest() -> None:
    scores = jnp.asarray([[1.0, 2.0, 2.0, 2.0, 0.0, 3.0]])
    np.testing.assert_array_equal(top_candidates(scores, 3), [[1, 2, 5]])


@pytest.mark.diagonal
@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 4])
def test_groups_are_chosen_by_their_best_neuron_for_any_row(group: int, batch: int, rng: np.random.Generator) -> None:
    scores = rng.normal(size=(batch, N)).astype(np.float32)
    best = scores.max(axis=0).reshape(-1, group).max(axis=1)
    for k in (1, 5, N // group):
        got = np.asarray(top_groups(jnp.asarray(scores), group, k))
        np.testing.assert_array_equal(got, np.sort(np.argsort(-best)[:k]))


@on_every_target
def test_the_bias_takes_part_in_choosing_neurons(target: Target, rng: np.random.Generator) -> None:
    made, x = stored(prepare_quantized(random(rng, N, D)), target), random(rng, 2, D)
    bias = jnp.zeros(N).at[jnp.asarray([8, 40])].set(100.0)
    groups = select_groups(x, made, bias, lambda z: z, 8, 2, target)
    np.testing.assert_array_equal(groups, [1, 5])
    assert not np.array_equal(select_groups(x, made, None, lambda z: z, 8, 2, target), [1, 5])


# --------------------------------------------------------------------------- feed-forward


def relu64(z: Array) -> Array:
    return np.maximum(z, 0)


@pytest.mark.diagonal(keep=1)
@on_every_target
@in_every_type
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_sparse_block_is_the_dense_block_of_its_neurons(
    target: Target, dtype: Any, group: int, stacked: bool, rng: np.random.Generator
) -> None:
    layers = (3,) if stacked else ()
    x, bias = random(rng, 3, D, dtype=dtype), random(rng, *layers, N, dtype=dtype)
    gate, up, down = (random(rng, *layers, N, D, dtype=dtype) for _ in range(3))
    groups = jnp.asarray(np.sort(rng.choice(N // group, 7, replace=False)), jnp.int32)
    layer = jnp.int32(2) if stacked else None
    got, _ = sparse_ffn(
        x, [store(gate, target), store(up, target)], store(down, target), [store(bias, target)],
        groups, Form(lambda g, u, b: jax.nn.relu(g + b) * u, group, target, layer),
    )  # fmt: skip
    neurons = (np.asarray(groups)[:, None] * group + np.arange(group)).ravel()
    g, u, v, b = (wide(a)[2][neurons] if stacked else wide(a)[neurons] for a in (gate, up, down, bias))
    wanted = (relu64(wide(x) @ g.T + b) * (wide(x) @ u.T)) @ v
    assert (got.shape, got.dtype) == ((3, D), jnp.float32)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("group", [1, 4])
def test_long_products_in_chunks_are_the_same(group: int, batch: int, rng: np.random.Generator) -> None:
    chunked = dataclasses.replace(target_for("cpu"), gathered_rows=16)
    x, up, down = (random(rng, *shape) for shape in ((batch, D), (4 * N, D), (4 * N, D)))
    groups = jnp.asarray(np.sort(rng.choice(4 * N // group, 4 * N // group - 3, replace=False)), jnp.int32)
    neurons = (np.asarray(groups)[:, None] * group + np.arange(group)).ravel()
    got, _ = sparse_ffn(x, [up], down, [], groups, Form(jax.nn.relu, group, chunked))
    wanted = relu64(wide(x) @ wide(up)[neurons].T) @ wide(down)[neurons]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@on_every_target
def test_products_are_rounded_as_the_author_rounded_them(target: Target, rng: np.random.Generator) -> None:
    """A bf16 program sees bf16 products before its activation; the exact rows must see the same."""
    x, up, down = random(rng, 1, D), random(rng, N, D), random(rng, N, D)
    every = jnp.arange(N, dtype=jnp.int32)
    got, _ = sparse_ffn(x, [up], down, [], every, Form(jax.nn.relu, 1, target, product_dtype="bfloat16"))
    z = jnp.asarray(wide(x) @ wide(up).T, jnp.float32).astype(jnp.bfloat16)
    np.testing.assert_allclose(got, relu64(wide(z)) @ wide(down), rtol=1e-2, atol=1e-2)
    unrounded = relu64(wide(x) @ wide(up).T) @ wide(down)
    assert np.abs(got - relu64(wide(z)) @ wide(down)).max() < 0.3 * np.abs(got - unrounded).max()


# --------------------------------------------------------------------------- heads


@pytest.mark.diagonal(keep=4)
@on_every_target
@in_every_type
@pytest.mark.parametrize("batch", [1, 4, 10])
def test_exact_logits_are_exact_on_every_rows_own_candidates(
    target: Target, dtype: Any, batch: int, rng: np.random.Generator
) -> None:
    x, rows = random(rng, batch, D, dtype=dtype), random(rng, N, D, dtype=dtype)
    ids = jnp.asarray(np.stack([rng.choice(N, 9, replace=False) for _ in range(batch)]), jnp.int32)
    wanted = np.take_along_axis(wide(x) @ wide(rows).T, np.asarray(ids), axis=1)
    got = exact_logits(x, StoredRows(store(rows, target), target), ids)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.diagonal
@on_every_target
@pytest.mark.parametrize("batch", [1, 4, 10])
def test_candidates_come_from_the_predictor_and_logits_from_the_weight(
    target: Target, batch: int, rng: np.random.Generator
) -> None:
    x, rows, other = random(rng, batch, D), random(rng, N, D), random(rng, N, D)
    misleading = stored(prepare_quantized(other), target)  # of another weight: what it chooses shows who chose
    ids, logits = candidate_logits(x, StoredRows(rows, target), misleading, 10, target)
    np.testing.assert_array_equal(ids, top_candidates(predict(x, misleading, target), 10))
    wanted = np.take_along_axis(wide(x) @ wide(rows).T, np.asarray(ids), axis=1)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.diagonal(keep=1)
@on_every_target
@pytest.mark.parametrize("batch", [1, 4, 10])
def test_outside_the_candidates_stands_the_tail(target: Target, batch: int, rng: np.random.Generator) -> None:
    x, rows = random(rng, batch, D), random(rng, N, D)
    made = stored(prepare_low_rank(rows, 3, None, "float32"), target)
    predicted, exact = np.asarray(predict(x, made, target)), wide(x) @ wide(rows).T
    kept = np.zeros((batch, N), bool)
    np.put_along_axis(kept, np.asarray(top_candidates(jnp.asarray(predicted), 10)), True, axis=1)
    for tail, rest in (("predicted", predicted), ("dropped", np.full_like(predicted, -np.inf))):
        ids, scores = select_candidates(x, made, 10, target)
        got = fill_tail(scores, ids, exact_logits(x, StoredRows(rows, target), ids), tail)
        np.testing.assert_allclose(got, np.where(kept, exact, rest), rtol=1e-5, atol=1e-5)
    assert np.abs(predicted - exact)[~kept].max() > 0.1


# --------------------------------------------------------------------------- storage


@on_every_target
def test_storing_and_loading_gives_the_same_numbers(target: Target, rng: np.random.Generator) -> None:
    for dtype in (jnp.bfloat16, jnp.float32, jnp.int8):
        array = random(rng, 4, 3).astype(dtype)
        kept = store(array, target)
        assert load(kept).dtype == dtype
        np.testing.assert_array_equal(load(kept), array)


def test_bfloat16_is_kept_as_bits_only_where_the_platform_wants_it(rng: np.random.Generator) -> None:
    array = random(rng, 4, 3, dtype=jnp.bfloat16)
    assert store(array, target_for("cpu")).dtype == jnp.uint16
    assert store(array, target_for("tpu")).dtype == jnp.bfloat16
    assert target_for("cuda") == target_for("rocm") == target_for("gpu")
    assert target_for("tpu").platform == "tpu"


@pytest.mark.diagonal
@on_every_target
@in_every_type
def test_rows_are_taken_in_the_order_asked_for(target: Target, dtype: Any, rng: np.random.Generator) -> None:
    matrix, index = random(rng, N, 2, 3, dtype=dtype), rng.integers(0, N, 20)
    got = take_rows(store(matrix, target), jnp.asarray(index), target)
    assert got.dtype == dtype
    np.testing.assert_array_equal(wide(got), wide(matrix)[index])


@pytest.mark.diagonal
@in_every_type
@pytest.mark.parametrize("precise", [False, True])
def test_products_are_summed_in_float32(dtype: Any, precise: bool, rng: np.random.Generator) -> None:
    x, rows = random(rng, 3, 400, dtype=dtype), random(rng, 9, 400, dtype=dtype)
    got = rows_dot(x, rows, precise=precise)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wide(x) @ wide(rows).T, rtol=1e-4, atol=1e-4)
    h = random(rng, 3, 9, dtype=dtype)
    np.testing.assert_allclose(columns_dot(h, rows, precise=precise), wide(h) @ wide(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 8, 9, 20])
def test_a_function_of_one_row_is_applied_to_every_row(batch: int, rng: np.random.Generator) -> None:
    x, y = random(rng, batch, 4), random(rng, batch, 4)
    got = for_each_row(lambda a, b: jnp.cumsum(a * b, axis=1), x, y)
    np.testing.assert_allclose(got, np.cumsum(wide(x) * wide(y), axis=1), rtol=1e-5, atol=1e-6)
