"""``step.split``: what only preparing reads is let go, and the step runs without it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support import relu_blocks
from tests.support.models import CONFIG, array, decode, rewritten, tokens, weights
from tests.support.relu_blocks import Block, plain, scanned, weights_of


def test_the_step_runs_without_what_was_let_go(rng: np.random.Generator) -> None:
    params, t = weights(rng), tokens(rng)
    want = decode(params, t)
    step = hire.transform(jax.jit(decode), CONFIG)
    prepared, (rest, same) = step.split(params, t)
    assert isinstance(rest["mlp"]["up"], jax.ShapeDtypeStruct)  # its rows were laid out anew
    assert rest["embed"] is params["embed"]  # the embedding still reads it
    assert same is t
    del params
    np.testing.assert_array_equal(step(rest, t, prepared=prepared), want)
    assert rewritten(step) == ["ffn/0", "head/0"]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", [plain, scanned], ids=["layer", "scan"])
def test_donating_frees_the_memory_and_changes_no_answer(dtype: str, block: Block, rng: np.random.Generator) -> None:
    w = weights_of(block, rng, dtype, bias=-1.0)
    x = array(rng, 1, relu_blocks.D, dtype=jnp.dtype(dtype))
    rule = hire.Rule(kind="ffn", predictor=hire.LowRank(rank=4), density=0.4, group=8)
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,)))
    want = step(w, x)
    prepared, (rest, _) = step.split(w, x, donate=True)
    gone = {name for name in w if isinstance(rest[name], jax.ShapeDtypeStruct)}
    deleted = {name for name in w if w[name].is_deleted()}
    # A stack of bfloat16 layers is not copied: the step reads the caller's memory as integers, so it stays.
    assert deleted if dtype == "float32" or block is plain else gone > deleted
    assert deleted <= gone
    np.testing.assert_array_equal(step(rest, x, prepared=prepared), want)


def test_only_jax_arrays_that_nothing_else_reads_are_deleted(rng: np.random.Generator) -> None:
    w, x = array(rng, 64, 64), array(rng, 1, 64)

    def tied(first: jax.Array, second: jax.Array, down: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ first) @ down + x @ second

    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), density=0.75, group=1)
    step = hire.transform(jax.jit(tied), hire.Config(rules=(rule,)))
    down = rng.normal(size=(64, 64)).astype(np.float32)
    want = tied(w, w, jnp.asarray(down), x)
    prepared, rest = step.split(w, w, down, x, donate=True)
    assert isinstance(rest[0], jax.ShapeDtypeStruct)  # one argument is let go, the other, of the same array, is read
    assert rest[1] is w
    np.testing.assert_allclose(step(*rest, prepared=prepared), want, rtol=0, atol=1e-4 * float(jnp.abs(want).max()))


def test_a_call_without_what_was_prepared_says_what_it_lacks(rng: np.random.Generator) -> None:
    params, t = weights(rng), tokens(rng)
    step = hire.transform(jax.jit(decode), CONFIG)
    _, rest = step.split(params, t)
    with pytest.raises(hire.WeightError, match=r"params\['mlp'\]\['up'\] is a type without numbers: pass prepared="):
        step(*rest)


def test_a_function_of_which_nothing_is_rewritten_keeps_its_arguments(rng: np.random.Generator) -> None:
    step, x = hire.transform(jnp.sin), array(rng, 3)
    prepared, rest = step.split(x, donate=True)
    assert (prepared, rest) == ({}, (x,))
    np.testing.assert_array_equal(step(*rest, prepared=prepared), jnp.sin(x))
