"""Reductions and sorts are read by what their bodies do, for every order of their arguments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.graph.graph import read_graph
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.patterns.operations.reducers import is_argmax, keeps_ties, reducer, sorts_down

X = jax.ShapeDtypeStruct((2, 16), jnp.float32)


def found(function: Any, name: str, check: Any, x: Any = X) -> Any:
    """What a check says of the only operation of a name."""
    text = jax.jit(function).lower(x).as_text()
    with _mlir.fresh_context():
        module = _mlir.parse(text)
        normalize(module)
        operations = [op for op in read_graph(module).ops() if op.name == name]
        assert len(operations) == 1
        return check(operations[0])


def reduction(start: float, body: Any) -> Any:
    return lambda x: lax.reduce(x, jnp.float32(start), body, (1,))


@pytest.mark.parametrize(
    ("start", "body", "name"),
    [
        (0.0, lax.add, "add"),
        (-np.inf, lax.max, "maximum"),
        (np.inf, lambda a, b: lax.min(b, a), "minimum"),
        (1.0, lax.add, None),  # starts from something
        (0.0, lax.max, None),
        (0.0, lambda a, b: 0.5 * (a + b), None),
        (0.0, lambda a, b: a + lax.max(a, b), None),
        (0.0, lambda a, b: a + a, None),
    ],
)
def test_a_reduction_is_what_it_applies_and_nothing_more(start: float, body: Any, name: str | None) -> None:
    assert found(reduction(start, body), "reduce", reducer) == name


def arg(start: tuple[float, int], body: Any, positions: Any = None) -> Any:
    def function(x: jax.Array) -> Any:
        where = lax.broadcasted_iota(jnp.int32, x.shape, 1) if positions is None else positions(x.shape)
        return lax.reduce((x, where), (jnp.float32(start[0]), jnp.int32(start[1])), body, (1,))

    return function


def first_best(p: Any, q: Any) -> Any:
    keep = (p[0] > q[0]) | ((p[0] == q[0]) & (p[1] < q[1]))
    return jnp.where(keep, p[0], q[0]), jnp.where(keep, p[1], q[1])


def last_best(p: Any, q: Any) -> Any:
    keep = (p[0] > q[0]) | ((p[0] == q[0]) & (p[1] > q[1]))
    return jnp.where(keep, p[0], q[0]), jnp.where(keep, p[1], q[1])


def best_unless_large(p: Any, q: Any) -> Any:
    """An argmax as far as a few numbers tell."""
    keep = ((p[0] > q[0]) | ((p[0] == q[0]) & (p[1] < q[1]))) & (p[0] < 1000.0)
    return jnp.where(keep, p[0], q[0]), jnp.where(keep, p[1], q[1])


def best_unless_early(p: Any, q: Any) -> Any:
    keep = (p[0] > q[0]) | ((p[0] == q[0]) & (p[1] < q[1]) & (p[1] != 77))
    return jnp.where(keep, p[0], q[0]), jnp.where(keep, p[1], q[1])


LOW = (-np.inf, 0)


def test_an_argmax_is_proven_for_every_order() -> None:
    assert found(lambda x: jnp.argmax(x, axis=1), "reduce", is_argmax)
    assert found(lambda x: jnp.argmax(x.T, axis=0), "reduce", is_argmax)
    assert found(arg(LOW, first_best), "reduce", is_argmax)


@pytest.mark.parametrize(
    "function",
    [
        arg(LOW, last_best),
        arg(LOW, best_unless_large),
        arg(LOW, best_unless_early),
        arg((0.0, 0), first_best),
        arg((-np.inf, 5), first_best),
        arg(LOW, first_best, lambda shape: lax.broadcasted_iota(jnp.int32, shape, 0)),
        arg(LOW, first_best, lambda shape: lax.broadcasted_iota(jnp.int32, shape, 1)[:, ::-1]),
        arg(LOW, first_best, lambda shape: jnp.broadcast_to(jnp.arange(32, dtype=jnp.int32)[::2], shape)),
        lambda x: jnp.argmin(x, axis=1),
    ],
)
def test_what_is_nearly_an_argmax_is_none(function: Any) -> None:
    assert not found(function, "reduce", is_argmax)


def order(*body: str, operands: int = 1) -> bool | None:
    """How a sort with a comparator of its own orders; as text, because JAX has one comparator only."""
    arguments = ", ".join(f"%{'abcd'[i]}: tensor<f32>" for i in range(2 * operands))
    values = ", ".join(f"%x{i}" for i in range(operands))
    types = ", ".join(["tensor<2x16xf32>"] * operands)
    heads = ", ".join(f"%x{i}: tensor<2x16xf32>" for i in range(operands))
    text = f"""
    func.func @main({heads}) -> tensor<2x16xf32> {{
      %s{f":{operands}" if operands > 1 else ""} = "stablehlo.sort"({values}) <{{dimension = 1 : i64}}> ({{
      ^bb0({arguments}):
        {" ".join(chr(10) + line for line in body)}
        stablehlo.return %r : tensor<i1>
      }}) : ({types}) -> ({types})
      return %s{"#0" if operands > 1 else ""} : tensor<2x16xf32>
    }}"""
    with _mlir.fresh_context():
        module = _mlir.parse(text)
        return sorts_down(next(op for op in read_graph(module).ops() if op.name == "sort"))


def compare(result: str, direction: str, left: str, right: str) -> str:
    return f"%{result} = stablehlo.compare {direction}, %{left}, %{right} : (tensor<f32>, tensor<f32>) -> tensor<i1>"


def test_the_order_of_a_sort_is_proven() -> None:
    assert order(compare("r", "GT", "a", "b"))
    assert order(compare("r", "LT", "b", "a"))
    assert order(compare("r", "GE", "a", "b"))
    assert order(compare("r", "LE", "a", "b")) is False
    assert order(compare("r", "EQ", "a", "b")) is None
    assert order("%n = stablehlo.negate %a : tensor<f32>", compare("r", "GT", "n", "b")) is None
    assert order(compare("r", "GT", "a", "b"), operands=2)
    assert order(compare("r", "GT", "c", "d"), operands=2) is None  # by the second operand
    assert order(compare("r", "GT", "a", "d"), operands=2) is None
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        x = jax.ShapeDtypeStruct((2, 16), dtype)
        assert found(lambda x: jnp.sort(x, axis=1), "sort", sorts_down, x) is False
        assert (
            found(lambda x: lax.sort_key_val(x, lax.broadcasted_iota(jnp.int32, x.shape, 1)), "sort", sorts_down, x)
            is False
        )


def test_a_cut_at_the_wrong_end_of_a_sort_is_no_choice_of_neurons() -> None:
    """k-th largest by sorting: found; an extreme with a start of its own: not."""
    d, m = 32, 256

    def block(cut: Any) -> Any:
        def step(up: jax.Array, down: jax.Array, x: jax.Array) -> jax.Array:
            h = jax.nn.relu(x @ up)
            return jnp.where(h >= cut(h), h, 0) @ down

        return step

    types = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((d, m), (m, d), (1, d))]
    by_sort = hire.inspect(block(lambda h: jnp.sort(h, axis=1)[:, -16:-15]), *types)
    assert by_sort.sites[0].selection == "top_k"
    started = hire.inspect(block(lambda h: lax.reduce(h, jnp.float32(0.5), lax.max, (1,))[:, None] * 0.5), *types)
    assert not started.sites


def test_equal_numbers_stay_as_they_stood_only_in_a_stable_sort_without_a_second_key() -> None:
    x = jax.ShapeDtypeStruct((2, 16), jnp.float32)

    def beside(x: jax.Array, **how: Any) -> list[jax.Array]:
        return lax.sort((x, -lax.broadcasted_iota(jnp.int32, x.shape, 1)), dimension=1, **how)

    assert found(lambda x: beside(x, num_keys=1), "sort", keeps_ties, x)
    assert found(lambda x: jnp.argsort(x, axis=1), "sort", keeps_ties, x)
    assert not found(lambda x: beside(x, num_keys=1, is_stable=False), "sort", keeps_ties, x)
    assert not found(lambda x: beside(x, num_keys=2), "sort", keeps_ties, x)
