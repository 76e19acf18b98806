"""On generated feed-forward blocks: full width is dense, and the same selection gives the same answer."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hire_compiler as hire
from hire_compiler.runtime.ffn import select_groups
from tests.support.programs import (
    ACTIVATIONS_JAX,
    Ffn,
    ffns,
    rank_of,
    rounding,
    wide,
)
from tests.support.properties import (
    CPU,
    FAST,
    SLOW,
    Array,
    assert_close,
    compiled,
    predictor_arrays,
    predictors,
    the_rewrite,
)


def layer_steps(program: Ffn, result: object, x: jax.Array) -> list[tuple[int | None, Array, Array, Array]]:
    """For every layer ``(layer, its input, its output, extra slack)``; a layer's residual is taken off its output."""
    if program.layers is None:
        return [(None, wide(x), wide(result).reshape(-1, program.d), np.zeros(()))]
    final, inputs = result
    states = [wide(state).reshape(-1, program.d) for state in (*inputs, final)]
    assert np.array_equal(states[0], wide(x))
    pairs = list(itertools.pairwise(states))
    return [(i, h, after - h, rounding(program.dtype) * np.abs(after)) for i, (h, after) in enumerate(pairs)]


def check_full_width_ffn(program: Ffn, predictor: object, group: int) -> None:
    params, x = program.arguments()
    dense = jax.jit(program.function)(params, x)
    step = compiled(program.function, "ffn", predictor=predictor, density=1.0, group=group)
    sparse = step(params, x)
    decision = the_rewrite(step)
    assert decision.candidates == program.width
    assert decision.exactness.startswith("exact")
    assert jax.tree.map(lambda a: (a.shape, a.dtype), dense) == jax.tree.map(lambda a: (a.shape, a.dtype), sparse)
    rows = (params["embed"][x] if program.lookup else x).reshape(-1, program.d)
    for who, result in (("dense", dense), ("rewritten", sparse)):
        for layer, h, y, extra in layer_steps(program, result, rows):
            wanted, slack = program.oracle(params, h, layer=layer)
            assert_close(y, wanted, slack + extra, f"{who} program, layer {layer}")


def check_small_width_ffn(program: Ffn, predictor: object, group: int) -> None:
    params, x = program.arguments()
    step = compiled(program.function, "ffn", predictor=predictor, density=0.25, group=group)
    result = step(params, x)
    decision = the_rewrite(step)
    assert decision.candidates < program.width
    prepared = predictor_arrays(step.prepare(params, x))
    rows = (params["embed"][x] if program.lookup else x).reshape(-1, program.d)
    for layer, h, y, extra in layer_steps(program, result, rows):
        groups = select_groups(
            jnp.asarray(h, rows.dtype),
            prepared,
            params.get("bias"),
            rank_of(program.activation),
            group,
            decision.candidates // group,
            CPU,
            None if layer is None else jnp.int32(layer),
        )
        neurons = (np.asarray(groups)[:, None] * group + np.arange(group)).ravel()
        assert len(np.unique(neurons)) == decision.candidates
        wanted, slack = program.oracle(params, h, neurons, layer)
        everything, _ = program.oracle(params, h, layer=layer)
        assert_close(y, wanted, slack + extra, f"layer {layer}")
        assert np.abs(wanted - everything).max() > 1e-6  # the selection leaves something out


groups = st.sampled_from((1, 2, 8))


@FAST
@given(ffns(), predictors, groups)
def test_full_width_is_identity_for_feed_forward_blocks(program: Ffn, predictor: object, group: int) -> None:
    check_full_width_ffn(program, predictor, group)


@pytest.mark.slow
@FAST
@given(ffns(), predictors, groups)
def test_same_selection_same_answer_for_feed_forward_blocks(program: Ffn, predictor: object, group: int) -> None:
    check_small_width_ffn(program, predictor, group)


@pytest.mark.slow
@SLOW
@given(ffns(), predictors, groups, st.booleans())
def test_feed_forward_blocks_at_length(program: Ffn, predictor: object, group: int, full: bool) -> None:
    (check_full_width_ffn if full else check_small_width_ffn)(program, predictor, group)


@pytest.mark.slow
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS_JAX))
@pytest.mark.parametrize("layers", [None, 2])
def test_every_activation_survives_both_widths(activation: str, layers: int | None) -> None:
    program = Ffn(
        activation=activation, gated=layers is None, layout="out_in", down="in_out", bias=layers is not None,
        dtype="float32", batch=3, sequence=False, lookup=False, d=12, width=40, layers=layers, seed=11,
    )  # fmt: skip
    check_full_width_ffn(program, hire.Quantized(), 2)
    check_small_width_ffn(program, hire.LowRank(rank=3), 8)
