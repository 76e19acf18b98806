"""A weight is an argument and the layout steps behind it; replayed, they give exactly what the dot reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import capture
from hire_compiler.graph.graph import read_graph
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.patterns.operations.match import NoMatch
from hire_compiler.patterns.region.dots import WeightDot, read_weight_dot
from hire_compiler.patterns.weights.provenance import Provenance
from hire_compiler.runtime.materialize import materialize, view
from tests.support.models import WIDTH, D, array


def read_dots(function: Callable[..., Any], *args: Any, **options: Any) -> list[WeightDot | NoMatch]:
    """Every product of a program as the detector reads it, or why it cannot."""
    captured = UserFunction(jax.jit(function, **options))
    program = capture(captured, *captured.flatten(args, {}))
    read: list[WeightDot | NoMatch] = []
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        provenance = Provenance(program.arguments)
        for op in read_graph(module).ops():
            if op.name == "dot_general":
                try:
                    read.append(read_weight_dot(op, provenance))
                except NoMatch as no:
                    read.append(no)
    return read


def why_not(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Why the right operand of the only product is no weight."""
    captured = UserFunction(jax.jit(function, **options))
    program = capture(captured, *captured.flatten(args, {}))
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        (dot,) = [op for op in read_graph(module).ops() if op.name == "dot_general"]
        with pytest.raises(NoMatch) as no:
            Provenance(program.arguments).weight(dot.operands[1])
    return no.value.reason


def only_dot(function: Callable[..., Any], *args: Any) -> WeightDot:
    (dot,) = read_dots(function, *args)
    assert isinstance(dot, WeightDot), dot.reason
    return dot


# --------------------------------------------------------------------------- chains of layout steps


@dataclass(frozen=True)
class Chain:
    """Layout steps on an array, as (name, argument) pairs."""

    shape: tuple[int, ...]
    steps: tuple[tuple[str, Any], ...]

    def apply(self, w: Any) -> Any:
        for name, value in self.steps:
            match name:
                case "transpose":
                    w = w.transpose(value)
                case "reshape":
                    w = w.reshape(value)
                case "slice":
                    w = w[tuple(slice(*bounds) for bounds in value)]
                case "convert":
                    w = w.astype(value)
                case "scale":
                    w = w * value if value < 4 else w / value
                case "expand":
                    w = w[None]
                case "squeeze":
                    w = w.reshape([n for n in w.shape if n != 1])
        return w


def factorings(size: int) -> list[tuple[int, ...]]:
    two = [(a, size // a) for a in range(1, size + 1) if size % a == 0]
    return [(size,), *two, *((a, b, c // b) for a, c in two for b in range(1, c + 1) if c % b == 0)]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    shape = draw(st.sampled_from(((24, 10), (4, 6, 10), (10, 24), (2, 3, 4, 10), (16, 9))))
    steps, now = [], shape
    for _ in range(draw(st.integers(0, 5))):
        name = draw(st.sampled_from(("transpose", "reshape", "slice", "convert", "scale", "expand", "squeeze")))
        value: Any = None
        if name == "transpose":
            value = tuple(draw(st.permutations(range(len(now)))))
        elif name == "reshape":
            value = draw(st.sampled_from(factorings(int(np.prod(now)))))
        elif name == "slice":
            value = tuple((draw(st.integers(0, n // 3)), n - draw(st.integers(0, n // 3)), 1 + (n > 8)) for n in now)
        elif name == "convert":
            value = draw(st.sampled_from((jnp.bfloat16, jnp.float32)))
        elif name == "scale":
            value = draw(st.sampled_from((0.5, 3.0, 7.0)))
        steps.append((name, value))
        now = Chain(shape, tuple(steps)).apply(np.zeros(shape, np.float32)).shape
    return Chain(shape, tuple(steps))


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(chains(), st.integers(0, 2**32 - 1), st.booleans())
def test_replaying_the_steps_gives_the_rows_that_the_dot_reads(chain: Chain, seed: int, weight_first: bool) -> None:
    rng = np.random.default_rng(seed)
    w = array(rng, *chain.shape)
    read = chain.apply(w)
    if read.ndim == 0 or read.size < 2:
        return
    contracted = int(rng.integers(read.ndim))
    x = jnp.sin(array(rng, 3, read.shape[contracted])).astype(read.dtype)

    def program(w: jax.Array, x: jax.Array) -> jax.Array:
        operands = (chain.apply(w), jnp.sin(x)) if weight_first else (jnp.sin(x), chain.apply(w))
        axes = ((contracted,), (1,)) if weight_first else ((1,), (contracted,))
        return jax.lax.dot_general(*operands, (axes, ((), ())))

    dot = only_dot(program, w, x)
    wanted = np.moveaxis(np.asarray(read.astype(jnp.float32)), contracted, -1).reshape(-1, read.shape[contracted])
    rows = materialize(dot.weight, {dot.weight.argument: w})
    assert (rows.shape, str(rows.dtype)) == (dot.weight.shape, dot.weight.dtype)
    np.testing.assert_array_equal(rows.astype(jnp.float32), wanted)
    np.testing.assert_array_equal(materialize(dot.columns, {dot.columns.argument: w}).astype(jnp.float32), wanted.T)
    assert (dot.rows, dot.d, dot.batch) == (*wanted.shape, 3)
    for weight in (dot.weight, dot.columns):
        if weight.is_view:
            np.testing.assert_array_equal(view(weight, w), materialize(weight, {weight.argument: w}))


def test_a_weight_stored_by_rows_is_a_view_and_a_transposed_one_is_not(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, WIDTH, D)
    assert only_dot(lambda x, w: jnp.sin(x) @ w.T, x, w).weight.is_view
    assert not only_dot(lambda x, w: jnp.sin(x) @ w, x, w.T).weight.is_view
    assert only_dot(lambda x, w: jnp.sin(x) @ w, x, w.T).columns.is_view
    assert only_dot(lambda x, w: jnp.einsum("bd,hkd->bhk", jnp.sin(x), w), x, w.reshape(8, 8, D)).weight.is_view


def test_a_transposed_transpose_is_the_weight_itself(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, D, WIDTH)
    weight = only_dot(lambda x, w: jnp.sin(x) @ w.T.T, x, w).columns
    assert weight.steps == ()
    assert weight.key == "w"


def test_a_converted_weight_is_no_view(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, WIDTH, D, dtype=jnp.bfloat16)
    weight = only_dot(lambda x, w: jnp.sin(x) @ w.astype(jnp.float32).T, x, w).weight
    assert not weight.is_view
    assert weight.dtype == "float32"


def test_names_say_where_the_caller_finds_the_weight(rng: np.random.Generator) -> None:
    params = {"layers": [{"w": array(rng, D, D)}, {"w": array(rng, D, D)}], "out": (array(rng, D, D),)}

    def program(x: jax.Array, params: Any) -> jax.Array:
        for layer in params["layers"]:
            x = jnp.tanh(x @ layer["w"])
        return x @ params["out"][0]

    names = [dot.weight.name for dot in read_dots(program, array(rng, 2, D), params) if isinstance(dot, WeightDot)]
    assert names == ["params['layers'][0]['w']", "params['layers'][1]['w']", "params['out'][0]"]


def test_the_key_tells_apart_what_differs_and_nothing_else(rng: np.random.Generator) -> None:
    w = array(rng, 2 * WIDTH, D)
    halves = [
        only_dot(lambda x, w, a=a, b=b: jnp.sin(x) @ w[a:b].T, array(rng, batch, D), w).weight.key
        for a, b in ((0, WIDTH), (WIDTH, 2 * WIDTH))
        for batch in (1, 5)
    ]
    assert halves[0] == halves[1] != halves[2] == halves[3]


# --------------------------------------------------------------------------- stacked layers


def stacked_program(axis: int, flip: bool) -> Callable[..., Any]:
    def program(x: jax.Array, stack: jax.Array) -> jax.Array:
        last = stack.shape[axis] - 1

        def body(state: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, None]:
            i, h = state
            w = jax.lax.dynamic_index_in_dim(stack, last - i if flip else i, axis, keepdims=False)
            return (i + 1, jnp.tanh(h @ w)), None

        return jax.lax.scan(body, (0, x), length=stack.shape[axis])[0][1]

    return program


@pytest.mark.diagonal
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_a_layer_of_a_stack_along_any_axis_is_followed(axis: int, flip: bool, rng: np.random.Generator) -> None:
    stack = array(rng, 3, D, D)
    given = jnp.moveaxis(stack, 0, axis)
    dot = only_dot(stacked_program(axis, flip), array(rng, 2, D), given)
    assert dot.layer is not None
    assert dot.weight.layers == 3
    np.testing.assert_array_equal(materialize(dot.weight, {dot.weight.argument: given}), np.swapaxes(stack, 1, 2))
    np.testing.assert_array_equal(materialize(dot.columns, {dot.columns.argument: given}), stack)
    if dot.columns.is_view:
        np.testing.assert_array_equal(view(dot.columns, given), stack)


def test_a_stack_of_one_layer_is_followed(rng: np.random.Generator) -> None:
    stack = array(rng, 1, D, D)
    dot = only_dot(lambda x, s: jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, s)[0], array(rng, 2, D), stack)
    rows = materialize(dot.weight, {dot.weight.argument: stack})
    np.testing.assert_array_equal(rows.reshape(D, D), stack[0].T)


def test_a_layer_picked_by_plain_indexing_in_a_fori_loop_is_followed(rng: np.random.Generator) -> None:
    stack = array(rng, 3, D, D)

    def program(x: jax.Array, stack: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ stack[i]), x)

    dot = only_dot(program, array(rng, 2, D), stack)
    assert dot.weight.layers == 3
    np.testing.assert_array_equal(materialize(dot.columns, {dot.columns.argument: stack}), stack)


def test_a_layer_at_a_fixed_position_is_a_weight_of_its_own(rng: np.random.Generator) -> None:
    stack, x = array(rng, 3, D, D), array(rng, 2, D)
    for pick in (lambda s: s[1], lambda s: jax.lax.dynamic_index_in_dim(s, 1, keepdims=False)):
        dot = only_dot(lambda x, s, pick=pick: jnp.sin(x) @ pick(s), x, stack)
        assert dot.layer is None
        assert dot.weight.layers is None
        np.testing.assert_array_equal(materialize(dot.columns, {dot.columns.argument: stack}), stack[1])


# --------------------------------------------------------------------------- what is no weight


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda w, i: w + 1, r"computed \(add\)", id="computed"),
        pytest.param(lambda w, i: w * w, r"computed \(multiply\)", id="squared"),
        pytest.param(lambda w, i: 1 / w, r"computed \(divide\)", id="inverted"),
        pytest.param(lambda w, i: w[jnp.asarray([3, 1, 2, 0] * 4)], r"computed \(gather\)", id="gathered"),
        pytest.param(lambda w, i: jnp.concatenate([w, w], 0), r"computed \(concatenate\)", id="concatenated"),
        pytest.param(lambda w, i: jnp.broadcast_to(w[:1], (D, D)), "broadcast of a smaller", id="broadcast"),
        pytest.param(lambda w, i: jax.lax.dynamic_slice_in_dim(w, i, 4), "dynamic slice", id="part picked at run time"),
        pytest.param(lambda w, i: jnp.flip(w, 0), r"computed \(reverse\)", id="reversed"),
        pytest.param(lambda w, i: jnp.tri(D), "computed|constant", id="no argument at all"),
    ],
)
def test_what_is_not_an_argument_laid_out_anew_is_no_weight(
    make: Callable[..., jax.Array], reason: str, rng: np.random.Generator
) -> None:
    def program(w: jax.Array, i: jax.Array) -> jax.Array:
        made = make(w, i)
        return jnp.sin(jnp.arange(2.0 * made.shape[0]).reshape(2, -1)) @ made

    why = why_not(program, array(rng, D, D), 3)
    assert re.search(reason, why), why
    assert "not a parameter" in why or "of a parameter" in why or "smaller parameter" in why


def test_a_donated_argument_is_no_weight(rng: np.random.Generator) -> None:
    why = why_not(lambda x, w: jnp.sin(x) @ w, array(rng, 2, D), array(rng, D, D), donate_argnums=1)
    assert why == "w is donated, so it is state and not a weight"


def test_a_value_that_a_loop_changes_is_no_weight(rng: np.random.Generator) -> None:
    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, s: (jnp.tanh(s[0] @ s[1]), s[1] * 2), (x, w))[0]

    assert "carried by a loop that changes it" in why_not(program, array(rng, 2, D), array(rng, D, D))


def test_a_value_that_a_loop_passes_on_stays_a_weight(rng: np.random.Generator) -> None:
    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, s: (jnp.tanh(s[0] @ s[1]), s[1]), (x, w))[0]

    assert only_dot(program, array(rng, 2, D), array(rng, D, D)).weight.name == "w"


def test_a_product_of_two_activations_has_no_weight(rng: np.random.Generator) -> None:
    (no,) = read_dots(lambda x: jnp.sin(x) @ jnp.cos(x).T, array(rng, 2, D))
    assert isinstance(no, NoMatch)
    assert not hire.inspect(lambda x: jnp.sin(x) @ jnp.cos(x).T, array(rng, 2, D)).misses


def test_the_larger_of_two_arguments_is_the_weight(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, WIDTH, D)
    for program in (lambda x, w: x @ w.T, lambda x, w: w @ x.T):
        assert only_dot(program, x, w).weight.name == "w"
        assert only_dot(program, x, w).batch == 2
