"""Proofs that a neuron is exactly zero, from the code between the products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.patterns.ffn.sparsity import gate_stages, zero_shares, zero_where_negative
from hire_compiler.proofs.zeros import exactly, negative_gate, proven_zero, within

GATE = np.asarray([-1.0, -0.0, 0.0, 2.0], np.float32)
ZERO_GATE = [True, True, True, False]


def code(*lines: tuple[Any, ...], inputs: int = 2, dtype: str = "float32") -> Expression:
    """A program of (operation, arguments…) on the gate (0) and the other product (1); the last line is its result."""
    instructions = []
    for op, *args in lines:
        detail = args.pop() if op == "constant" or (args and isinstance(args[-1], str)) else None
        result = "bool" if op in ("compare", "and", "or", "not", "is_finite") else dtype
        instructions.append(Instruction(op, tuple(args), result, detail))
    return Expression(inputs, tuple(instructions), inputs + len(instructions) - 1)


def zero(expression: Expression, gate: Any = GATE, limit: float = 10.0) -> list[bool]:
    stages = gate_stages(expression, 2, 0)
    known = stages.first({0: jnp.asarray(gate, expression.instructions[0].dtype)})
    return np.broadcast_to(np.asarray(stages.zero(known, {1: limit})), np.shape(gate)).tolist()


RELU = (("constant", 0.0), ("maximum", 0, 2))  # values 2 and 3
PROVEN = {
    "relu(g) u": (*RELU, ("multiply", 3, 1)),
    "relu(g) relu(u - 1.5)": (
        *RELU, ("constant", 1.5), ("subtract", 1, 4), ("maximum", 5, 2), ("multiply", 3, 6)
    ),
    "relu(g) (u > 2)": (*RELU, ("constant", 2.0), ("compare", 1, 4, "GT"), ("convert", 5), ("multiply", 6, 3)),
    "where(g > 0, u, 0)": (("constant", 0.0), ("compare", 0, 2, "GT"), ("select", 3, 1, 2)),
    "relu(g) silu(u)": (
        *RELU, ("negate", 1), ("exponential", 4), ("constant", 1.0), ("add", 5, 6), ("divide", 1, 7), ("multiply", 3, 8)
    ),
    "tanh(-relu(g) u) + relu(g)": (*RELU, ("multiply", 3, 1), ("negate", 4), ("tanh", 5), ("add", 6, 3)),
    "relu(g) / (2 + tanh(u))": (*RELU, ("tanh", 1), ("constant", 2.0), ("add", 4, 5), ("divide", 3, 6)),
}  # fmt: skip
UNPROVEN = {
    "relu(u - 1.5) alone": (("constant", 1.5), ("subtract", 1, 2), ("constant", 0.0), ("maximum", 3, 4)),
    "relu(g) / u": (*RELU, ("divide", 3, 1)),
    "relu(g) + u": (*RELU, ("add", 3, 1)),
    "where(u > 2, relu(g), u)": (*RELU, ("constant", 2.0), ("compare", 1, 4, "GT"), ("select", 5, 3, 1)),
    "relu(g) log(u)": (*RELU, ("log", 1), ("multiply", 3, 4)),
    "cos(relu(g) u)": (*RELU, ("multiply", 3, 1), ("cosine", 4)),
    "relu(g) tan(u): nobody listed a tangent": (*RELU, ("chlo.tan", 1), ("multiply", 3, 4)),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", PROVEN)
def test_a_zero_that_the_gate_alone_decides_is_proven(name: str) -> None:
    assert zero(code(*PROVEN[name])) == ZERO_GATE
    never_nan = name in ("where(g > 0, u, 0)", "relu(g) (u > 2)")
    assert zero(code(*PROVEN[name]), limit=np.inf) == (ZERO_GATE if never_nan else [False] * 4)


@pytest.mark.parametrize("name", UNPROVEN)
def test_a_zero_that_needs_the_other_product_is_not(name: str) -> None:
    assert zero(code(*UNPROVEN[name])) == [False] * 4


def test_a_factor_that_may_overflow_proves_nothing() -> None:
    grows = code(*RELU, ("exponential", 1), ("multiply", 3, 4))
    assert zero(grows, limit=50) == ZERO_GATE
    assert zero(grows, limit=90) == [False] * 4
    narrow = code(*RELU, ("multiply", 1, 1), ("multiply", 3, 4), dtype="float16")
    assert zero(narrow, limit=200) == ZERO_GATE
    assert zero(narrow, limit=300) == [False] * 4


def test_a_gate_that_is_not_a_number_is_not_zero() -> None:
    assert zero(code(*PROVEN["relu(g) u"]), [np.nan, np.inf, -np.inf]) == [False, False, True]


def test_the_product_that_proves_more_is_the_gate() -> None:
    both = code(*PROVEN["relu(g) relu(u - 1.5)"])
    first, second = zero_shares(both, 2)
    assert 0.3 < first < second


NEGATIVE = {
    "relu": (*RELU, ("multiply", 3, 1)),
    "relu squared": (*RELU, ("multiply", 3, 3), ("multiply", 4, 1)),
    "relu6": (("constant", 0.0), ("constant", 6.0), ("clamp", 2, 0, 3), ("multiply", 4, 1)),
    "g times (g > 0)": (("constant", 0.0), ("compare", 0, 2, "GT"), ("convert", 3), ("multiply", 0, 4)),
    "relu(g - 1.5)": (("constant", 1.5), ("subtract", 0, 2), ("constant", 0.0), ("maximum", 3, 4), ("multiply", 5, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NEGATIVE)
def test_a_negative_gate_gives_zero(name: str) -> None:
    assert zero_where_negative(negative_gate(code(*NEGATIVE[name]), 0, None), 2)


NOT_NEGATIVE = {
    "nearly a relu": (("constant", 1e-7), ("multiply", 0, 2), ("maximum", 0, 3), ("multiply", 4, 1)),
    "a relu as far as samples go": (
        *RELU, ("constant", -30.0), ("compare", 0, 4, "LT"), ("select", 5, 0, 3), ("multiply", 6, 1)
    ),
    "relu(g + 1)": (("constant", 1.0), ("add", 0, 2), ("constant", 0.0), ("maximum", 3, 4), ("multiply", 5, 1)),
    "silu": (("logistic", 0), ("multiply", 0, 2), ("multiply", 3, 1)),
    "relu(g) + a millionth": (*RELU, ("constant", 1e-6), ("add", 3, 4), ("multiply", 5, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_a_negative_gate_proves_nothing_of_another_function(name: str) -> None:
    assert not zero_where_negative(negative_gate(code(*NOT_NEGATIVE[name]), 0, None), 2)


def test_the_bias_that_is_added_belongs_to_the_gate() -> None:
    biased = code(("add", 0, 2), ("constant", 0.0), ("maximum", 3, 4), ("multiply", 5, 1), inputs=3)
    assert zero_where_negative(negative_gate(biased, 0, 2), 2)
    assert not zero_where_negative(negative_gate(biased, 0, None), 2)  # the sign of the product says nothing of the sum


UNARY = [
    "negate", "abs", "sign", "exponential", "exponential_minus_one", "log", "log_plus_one", "logistic", "tanh", "sqrt",
    "rsqrt", "cbrt", "sine", "cosine", "floor", "ceil", "chlo.square", "chlo.erf", "chlo.erfc", "chlo.asinh", "convert",
    "round_nearest_even", "round_nearest_afz",
]  # fmt: skip
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "atan2"]


@st.composite
def programs(draw: st.DrawFn) -> Expression:
    """Any code on two products, in which zeros of the gate meet everything."""
    dtype = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    lines = [Instruction("constant", (), dtype, 0.0), Instruction("maximum", (0, 2), dtype)]
    lines.append(Instruction("constant", (), dtype, draw(st.sampled_from([-1.5, 0.0, 0.5, 1.0, 300.0]))))
    for _ in range(draw(st.integers(1, 7))):
        values = [i for i in range(2 + len(lines)) if i < 2 or lines[i - 2].dtype != "bool"]
        pick = st.sampled_from(values)
        kind = draw(st.sampled_from(["unary", "binary", "binary", "select", "clamp", "reduce_precision"]))
        if kind == "unary":
            lines.append(Instruction(draw(st.sampled_from(UNARY)), (draw(pick),), dtype))
        elif kind == "binary":
            lines.append(Instruction(draw(st.sampled_from(BINARY)), (draw(pick), draw(pick)), dtype))
        elif kind == "clamp":
            lines.append(Instruction("clamp", (draw(pick), draw(pick), draw(pick)), dtype))
        elif kind == "reduce_precision":
            lines.append(
                Instruction("reduce_precision", (draw(pick),), dtype, draw(st.sampled_from(["8/7", "5/2", "4/3"])))
            )
        else:
            direction = draw(st.sampled_from(["EQ", "NE", "LT", "LE", "GT", "GE"]))
            lines.append(Instruction("compare", (draw(pick), draw(pick)), "bool", direction))
            lines.append(Instruction("select", (1 + len(lines), draw(pick), draw(pick)), dtype))
    lines.append(Instruction("multiply", (draw(st.sampled_from([3, 2, 4])), 1 + len(lines)), dtype))
    return Expression(2, tuple(lines), 1 + len(lines))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(programs(), st.sampled_from([0.3, 4.0, 90.0, 3e4]), st.integers(0, 2**31))
def test_whatever_is_proven_zero_is_zero(expression: Expression, limit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = expression.instructions[0].dtype
    gate = jnp.asarray(np.concatenate([rng.normal(size=12), [0.0, -0.0, 1e4, -1e4]]), dtype)[:, None]
    other = np.concatenate([rng.uniform(-limit, limit, 24), [0.0, -0.0, limit, -limit, 1e-30, -1e-30, 1.0, -1.5]])
    other = jnp.clip(jnp.asarray(other, dtype), -limit, limit).astype(dtype)[None]
    stages = gate_stages(expression, 2, 0)
    proven = np.asarray(stages.zero(stages.first({0: gate}), {1: limit}))
    result = np.asarray(expression.evaluate([gate, other], exact=True), np.float32)
    assert (np.broadcast_to(result, (16, 32))[np.broadcast_to(proven, (16, 32))] == 0).all()
    # And with nothing but a sign known of the gate.
    code = negative_gate(expression, 0, None)
    proven = np.asarray(code.zero(np.asarray(True), limit, dict.fromkeys((0, 1), limit), {}))
    below = -jnp.abs(jnp.clip(gate, -limit, limit)) - jnp.asarray(1e-3, dtype)
    result = np.asarray(expression.evaluate([jnp.maximum(below, -limit).astype(dtype), other], exact=True), np.float32)
    assert not proven.all() or (result == 0).all()


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_said_to_keep_a_zero_keeps_it(dtype: str) -> None:
    for op in UNARY:
        expression = Expression(1, (Instruction(op, (0,), dtype),), 1)
        if bool(proven_zero(expression, {0: exactly(np.float32(0))})):
            assert float(expression.evaluate([jnp.zeros((), dtype)], exact=True)) == 0, op
        assert not np.any(proven_zero(expression, {0: within(1.0)})), op
