"""A large matrix is prepared and looked at piece by piece: the same numbers in less memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hire_compiler.calling.halves import _is_half
from hire_compiler.runtime.certify import prepare_bound
from hire_compiler.runtime.pieces import all_in_pieces, in_pieces
from hire_compiler.runtime.predictors import RECORDS, prepare_copies
from hire_compiler.runtime.quantized import prepare_quantized
from hire_compiler.runtime.target import target_for

CPU = target_for("cpu")
N, D = 1003, 64
PIECES = replace(CPU, piece_bytes=100 * 4 * D)  # ten pieces and three rows


def matrix(dtype: str, n: int = N, d: int = D) -> jax.Array:
    rng = np.random.default_rng(3)
    return jnp.asarray(rng.normal(size=(n, d)) * np.exp(3 * rng.normal(size=(n, 1))), dtype)


def same(one: dict[str, jax.Array], other: dict[str, jax.Array]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), name)


def temporary(function: Any, *types: Any) -> int:
    return int(jax.jit(function).lower(*types).compile().memory_analysis().temp_size_in_bytes)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if record.by_rows])
def test_copies_are_bit_for_bit_those_of_the_whole(name: str, dtype: str) -> None:
    rows = matrix(dtype)
    whole, pieces = (
        jax.jit(lambda w, target=target: prepare_copies(w, ((name, {}),), None, stacked=False, target=target))(rows)
        for target in (None, PIECES)
    )
    same(whole, pieces)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_so_are_bounds(dtype: str) -> None:
    rows = matrix(dtype)
    copy = prepare_quantized(rows)

    def bounds(rows: jax.Array, q: jax.Array, scale: jax.Array) -> dict[str, jax.Array]:
        return prepare_bound(rows, {"q": q, "scale": scale})

    given = rows, copy["q"], copy["scale"]
    same(jax.jit(bounds)(*given), jax.jit(lambda *given: in_pieces(bounds, given, PIECES))(*given))


def test_no_second_matrix_stands_in_memory() -> None:
    rows = jax.ShapeDtypeStruct((20_000, 512), jnp.float32)
    pieces = replace(CPU, piece_bytes=1 << 20)

    def bounds(rows: jax.Array) -> dict[str, jax.Array]:
        copy = prepare_copies(rows, (("int8", {}),), None, stacked=False, target=pieces)
        make = lambda part, q, scale: prepare_bound(part, {"q": q, "scale": scale})  # noqa: E731
        return copy | in_pieces(make, (rows, copy["q"], copy["scale"]), pieces)

    assert temporary(bounds, rows) < 4 << 20
    assert temporary(lambda rows: all_in_pieces(jnp.isfinite, rows, pieces), rows) < 4 << 20


@pytest.mark.parametrize("at", [None, (0, 0), (555, 7), (N - 1, D - 1)])
def test_one_wrong_number_is_seen_wherever_it_stands(at: tuple[int, int] | None) -> None:
    rows = np.ones((N, D), np.float32)
    finite = jax.jit(lambda rows: all_in_pieces(jnp.isfinite, rows, PIECES))
    halves = jax.jit(lambda rows: all_in_pieces(_is_half, rows, PIECES))
    assert finite(rows)
    assert halves(rows)
    if at is not None:
        assert not finite(np.where(np.arange(rows.size).reshape(N, D) == at[0] * D + at[1], np.nan, rows))
        assert not halves(np.where(np.arange(rows.size).reshape(N, D) == at[0] * D + at[1], np.float32(0.1), rows))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (7,), (2, 300, D)])
def test_any_shape_is_looked_at(shape: tuple[int, ...]) -> None:
    assert all_in_pieces(jnp.isfinite, jnp.ones(shape), PIECES)
