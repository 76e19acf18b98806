"""The forms that a TPU gets: the same numbers as anywhere, and (if its compiler is installed) the program we want."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.predictors import kept_for, predict
from hire_compiler.runtime.quantized import prepare_int4
from hire_compiler.runtime.target import columns_dot, dot_of_few, own_rows_dot, rows_dot, target_for
from hire_compiler.runtime.topk import top_candidates, top_groups

TPU, CPU = target_for("tpu"), target_for("cpu")
needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, 8, 11])
def test_filled_up_products_are_the_same_products(batch: int) -> None:
    x, rows, h = normal(batch, 24), normal(40, 24), normal(batch, 40)
    np.testing.assert_allclose(rows_dot(x, rows, target=TPU), x @ rows.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dot_of_few(x, rows, TPU), x @ rows.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(columns_dot(h, rows, target=TPU), h @ rows, rtol=1e-5, atol=1e-5)
    ids = np.random.default_rng(batch).integers(0, 40, (batch, 5)).astype(np.int32)
    wanted = np.einsum("bd,bkd->bk", x, rows[ids])
    for target in (TPU, CPU):
        np.testing.assert_allclose(own_rows_dot(x, rows, ids, target), wanted, rtol=1e-5, atol=1e-5)


def test_products_of_one_row_are_filled_up_only_where_that_pays() -> None:
    x, rows = jnp.zeros((1, 24)), jnp.zeros((40, 24))
    assert "8,24" in str(jax.make_jaxpr(lambda x, r: rows_dot(x, r, target=TPU))(x, rows))
    assert "pad" not in str(jax.make_jaxpr(lambda x, r: rows_dot(x, r, target=CPU))(x, rows))


def test_a_group_counts_with_its_best_neuron_for_any_row() -> None:
    scores = np.full((3, 12), -1.0, np.float32)
    scores[2, 5], scores[0, 9] = 3.0, 2.0
    np.testing.assert_array_equal(top_groups(jnp.asarray(scores), 3, 2), [1, 3])


def test_the_best_row_is_among_the_candidates_of_the_partial_top_k() -> None:
    scores = normal(8, 4096)
    chosen = np.asarray(top_candidates(jnp.asarray(scores), 64, TPU))
    assert all(best in row for best, row in zip(scores.argmax(axis=1), chosen, strict=True))
    assert (np.diff(chosen, axis=1) > 0).all()


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("d", "columns"), [(24, 8), (24, 24), (32, 8)])
def test_a_copy_of_four_bits_scores_the_same_in_a_type_of_four_bits(batch: int, d: int, columns: int) -> None:
    x, packed = jnp.asarray(normal(batch, d)), prepare_int4(jnp.asarray(normal(50, d)), columns)
    native = kept_for(packed, d, TPU)
    assert native["q4"].dtype == jnp.int4
    assert native["q4"].shape == (d // columns, 50, columns)
    assert kept_for(packed, d, CPU)["q4"] is packed["q4"]
    np.testing.assert_allclose(predict(x, native, TPU), predict(x, packed, CPU), rtol=1e-4, atol=1e-4)


def test_factors_that_a_product_rounds_anyway_are_kept_rounded() -> None:
    factors = {"a": jnp.ones((4, 2)), "b": jnp.ones((8, 2))}
    assert kept_for(factors, 4, TPU)["a"].dtype == jnp.bfloat16


@pytest.mark.diagonal
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_cpus_keep_the_first_factor_as_rows(dtype: str, batch: int) -> None:
    a, b, x = (jnp.asarray(normal(*shape), dtype) for shape in ((32, 4), (24, 4), (batch, 32)))
    kept = kept_for({"a": a, "b": b}, 32, CPU)
    assert kept.keys() == {"a_rows", "b"}
    assert kept["a_rows"].shape == (4, 32)
    assert kept["a_rows"].dtype == b.dtype
    wanted = x.astype(jnp.float32) @ a.astype(jnp.float32) @ b.T.astype(jnp.float32)
    np.testing.assert_allclose(predict(x, kept, CPU), wanted, rtol=1e-4, atol=1e-4)
    too_long = kept_for({"a": jnp.ones((4096, 2), dtype), "b": b}, 4096, CPU)["a"]  # to be converted in a product
    assert too_long.dtype == jnp.float32


# --------------------------------------------------------------------------- what XLA:TPU makes of them

LAYERS, D, M = 3, 1024, 8192
VOCABULARY = 65536


def bf16(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def scanned(layers: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        return jax.nn.relu(x @ w["up"].T) @ w["down"], None

    return jax.lax.scan(layer, x, layers)[0]


def top(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(x @ w.T, 8)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
def test_a_scanned_stack_copies_no_weight(batch: int) -> None:
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=128, dtype="bfloat16"), density=0.1)
    step = hire.transform(jax.jit(scanned), hire.Config(rules=(rule,)), platform="tpu")
    arguments = {"up": bf16(LAYERS, M, D), "down": bf16(LAYERS, M, D)}, bf16(batch, D)
    sparse, dense = hire.estimate(step, *arguments), hire.estimate(jax.jit(scanned), *arguments)
    assert not sparse.copies
    gathers = [op for op in sparse.operations if op.kind == "gather"]
    assert sum(op.hbm_bytes for op in gathers) == 2 * LAYERS * 824 * D * 2  # what was asked for, and no more
    assert sparse.hbm_bytes < 0.25 * dense.hbm_bytes
    assert sparse.seconds < 0.4 * dense.seconds
    # One row alone would run on the vector unit.
    assert all(op.kind != "elementwise" or op.hbm_bytes < 1e5 for op in sparse.operations)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
def test_four_bits_are_read_as_four_bits(batch: int) -> None:
    rule = hire.Rule(kind="head", predictor=hire.Quantized(4, columns=64), candidates=128)
    step = hire.transform(jax.jit(top), hire.Config(rules=(rule,)), platform="tpu")
    estimate = hire.estimate(step, bf16(VOCABULARY, D), bf16(batch, D))
    scales, rows = VOCABULARY * D // 64 * 4, batch * 128 * D * 2
    assert estimate.hbm_bytes < VOCABULARY * D // 2 + scales + rows + 1e6
    assert estimate.temporary_bytes < 2 * VOCABULARY
    assert not estimate.copies


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("predictor", [hire.Quantized(bits=8), hire.LowRank(rank=128, dtype="bfloat16")], ids=str)
def test_the_predictor_of_a_head_is_fused_with_its_partial_top_k(batch: int, predictor: hire.Quantized) -> None:
    rule = hire.Rule(kind="head", predictor=predictor, candidates=128)
    step = hire.transform(jax.jit(top), hire.Config(rules=(rule,)), platform="tpu")
    estimate = hire.estimate(step, bf16(VOCABULARY, D), bf16(batch, D))
    assert [op.kind for op in estimate.operations if op.kind.startswith("matmul + ")] == ["matmul + partial top-k"]
    assert estimate.temporary_bytes < 2 * VOCABULARY  # neither scores nor a dequantised copy
    assert not estimate.copies
