"""What follows from constants alone is known as a number; the module itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.stats import norm

from hire_compiler import _mlir
from hire_compiler.graph.graph import read_graph
from hire_compiler.passes.normalize.fold import fold_constants
from hire_compiler.passes.normalize.normalize import normalize

X = jax.ShapeDtypeStruct((3, 5), jnp.float32)


def folded(program: Callable[..., Any] | str) -> list[float]:
    """The numbers that were found in a program, in its order."""
    text = program if isinstance(program, str) else jax.jit(program).lower(X).as_text()
    with _mlir.fresh_context():
        module = _mlir.parse(text)
        normalize(module)
        before = _mlir.to_text(module)
        graph = read_graph(module)
        count = fold_constants(graph)
        values = [float(op.folded) for op in graph.ops() if op.folded is not None]
        assert len(values) == count
        assert _mlir.to_text(module) == before
    return values


def summed() -> jax.Array:
    return jnp.sum(jnp.arange(10.0) * jnp.asarray(np.arange(10.0)))


MADE: dict[str, tuple[Callable[[], jax.Array], float]] = {
    "a special function": (lambda: lax.erf_inv(jnp.float32(0.9)), 1.1630871),
    "polynomials behind comparisons": (lambda: norm.ppf(jnp.float32(0.95)), 1.6448536),
    "a loop": (lambda: lax.fori_loop(0, 7, lambda i, c: c * 2 + i, jnp.float32(1)), 248.0),
    "a loop that reads what stands outside": (
        lambda: lax.while_loop(lambda c: c < summed(), lambda c: c + summed() / 4, jnp.float32(0)), 285.0
    ),
    "a branch": (lambda: lax.cond(summed() > 3, lambda: summed() + 1, lambda: jnp.float32(0)), 286.0),
    "a table": (lambda: jnp.asarray([1.0, 4.0, 9.0])[jnp.argmax(jnp.asarray([0.0, 2.0, 1.0]))], 4.0),
    "a product of matrices": (lambda: (jnp.arange(4.0) @ jnp.arange(4.0)), 14.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_one_number_out_of_constants_is_found(name: str) -> None:
    make, value = MADE[name]
    assert value == pytest.approx(folded(lambda x: x * make())[-1], rel=1e-6)
    assert float(jax.jit(make)()) == folded(lambda x: x * make())[-1]  # the bits that XLA computes


def test_a_special_function_by_another_name_is_one() -> None:
    text = """
    func.func @main(%x: tensor<f32>) -> tensor<f32> {
      %c = stablehlo.constant dense<0.9> : tensor<f32>
      %y = stablehlo.composite "chlo.erf_inv" %c {decomposition = @f} : (tensor<f32>) -> tensor<f32>
      %z = stablehlo.multiply %x, %y : tensor<f32>
      return %z : tensor<f32>
    }
    func.func private @f(%a: tensor<f32>) -> tensor<f32> {
      return %a : tensor<f32>
    }"""
    assert folded(text) == pytest.approx([1.1630871])


def test_an_array_of_one_number_is_that_number() -> None:
    assert folded(lambda x: x * lax.erf_inv(jnp.full((3, 5), 0.9))) == pytest.approx([1.1630871])
    barrier = lambda x: x * lax.erf_inv(lax.optimization_barrier(jnp.full((3, 5), 0.9)))  # noqa: E731
    assert folded(barrier) == pytest.approx([1.1630871])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x * jnp.sqrt(jnp.float32(2)) * 0.5,  # read as it stands
        lambda x: x * lax.erf_inv(x),
        lambda x: x * lax.erf_inv(jnp.asarray([0.1, 0.2, 0.3, 0.4, 0.5])),  # a number for every column
        lambda x: x * jnp.arange(5.0),
        lambda x: lax.fori_loop(0, 3, lambda i, c: c * lax.cosh(i.astype(jnp.float32)), x),
        lambda x: x * jax.random.normal(jax.random.key(0), (3, 5)),
    ],
)
def test_nothing_else_is(function: Callable[..., Any]) -> None:
    assert folded(function) == []


def test_a_constant_inside_a_loop_is_found_there() -> None:
    def step(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 3, lambda i, c: c * lax.erf_inv(jnp.float32(0.9)), x)

    assert folded(step) == pytest.approx([1.1630871])
