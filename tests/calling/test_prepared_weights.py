"""Weights are prepared once, kept as long as they live, and prepared anew where they may have changed."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from typing import Any

import jax
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.models import (
    CONFIG,
    FFN,
    HEAD,
    VOCABULARY,
    WIDTH,
    D,
    array,
    decode,
    ffn,
    head,
    logits,
    tokens,
    weights,
)


def flat(prepared: dict[str, dict[str, jax.Array]]) -> dict[tuple[str, str], jax.Array]:
    return {(key, name): array for key, arrays in prepared.items() for name, array in arrays.items()}


def same_arrays(one: Any, other: Any) -> bool:
    one, other = flat(one), flat(other)
    assert one
    assert one.keys() == other.keys()
    return all(one[key] is other[key] for key in one)


def test_the_same_arrays_are_prepared_once(params: dict[str, Any], rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    step(params, tokens(rng))
    first = step.prepare(params, tokens(rng))
    step(params, tokens(rng))
    assert same_arrays(first, step.prepare(params, tokens(rng)))
    rebuilt = jax.tree.map(lambda a: a, params)  # another tree of the same arrays
    assert same_arrays(first, step.prepare(rebuilt, tokens(rng)))


def test_new_arrays_are_prepared_again(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    first, others = step.prepare(params, t), weights(rng)
    second = step.prepare(others, t)
    assert not any(one is other for one, other in zip(flat(first).values(), flat(second).values(), strict=True))
    for p in (params, others, params):
        np.testing.assert_array_equal(step(p, t), np.argmax(logits(p, t), axis=-1))


def test_one_changed_weight_prepares_only_what_reads_it(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    first = step.prepare(params, t)
    changed = {**params, "mlp": {**params["mlp"], "up": array(rng, D, WIDTH)}}
    second = step.prepare(changed, t)
    kept = {key.split("|")[0] for key in first if all(first[key][n] is second[key][n] for n in first[key])}
    assert kept == {"head"}
    np.testing.assert_array_equal(step(changed, t), np.argmax(logits(changed, t), axis=-1))


def test_prefill_and_decode_share_one_prepared_weight(params: dict[str, Any], rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), CONFIG)
    prefill, one = step.prepare(params, tokens(rng, 8)), step.prepare(params, tokens(rng, 1))
    assert same_arrays(prefill, one)


def test_what_was_prepared_dies_with_its_weights(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    short_lived = weights(rng)
    step(short_lived, t)
    dying = [weakref.ref(array) for array in flat(step.prepare(short_lived, t)).values()]
    assert dying
    del short_lived
    gc.collect()
    assert not any(ref() is not None for ref in dying)
    np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))


def test_a_transformed_function_does_not_keep_weights_alive(rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    short_lived = weights(rng)
    step(short_lived, t)
    dying = [weakref.ref(leaf) for leaf in jax.tree.leaves(short_lived)]
    del short_lived
    gc.collect()
    assert not any(ref() is not None for ref in dying)


def test_the_cache_of_prepared_weights_is_bounded(rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    alive = [weights(rng) for _ in range(12)]
    refs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hire.HireWarning)
        for p in alive:
            refs += [weakref.ref(array) for array in flat(step.prepare(p, t)).values()]
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= len(refs) // 2


def test_weights_that_change_on_every_call_are_warned_about(rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)

    def change_always() -> None:
        for _ in range(8):
            step(weights(rng), t)

    with pytest.warns(hire.HireWarning, match=r"params\['.*different arrays.*prepared="):
        change_always()


def test_writable_numpy_weights_are_prepared_anew_and_warned_about(
    params: dict[str, Any], rng: np.random.Generator
) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    mutable = jax.tree.map(np.array, params)

    def change_in_place() -> None:
        for _ in range(4):
            mutable["embed"][:] = rng.normal(size=mutable["embed"].shape)
            np.testing.assert_array_equal(step(mutable, t), np.argmax(logits(mutable, t), axis=-1))

    with pytest.warns(hire.HireWarning, match=r"writable NumPy arrays are prepared anew.*jnp\.asarray"):
        change_in_place()


def test_numpy_weights_that_jax_owns_are_prepared_once(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    frozen = jax.tree.map(np.asarray, params)
    assert same_arrays(step.prepare(frozen, t), step.prepare(frozen, t))


@pytest.mark.parametrize("called_before", [False, True])
def test_deleted_weights_are_an_error(called_before: bool, rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(ffn), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, D, WIDTH).T
    if called_before:
        step(x, up, down)
    up.delete()
    with pytest.raises((hire.WeightError, RuntimeError), match="deleted"):
        step(x, up, down)


def test_prepared_weights_of_another_function_are_refused(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    other = hire.transform(jax.jit(head), hire.Config(rules=(HEAD,)))
    strange = other.prepare(array(rng, 2, D), array(rng, VOCABULARY, D))
    with pytest.raises(hire.WeightError, match=r"prepared= lacks .*step\.prepare"):
        step(params, t, prepared=strange)
    with pytest.raises(hire.WeightError, match="prepared= lacks"):
        step(params, t, prepared={})


def test_prepared_weights_of_another_shape_are_refused(params: dict[str, Any], rng: np.random.Generator) -> None:
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng)
    other = weights(rng, VOCABULARY * 2)
    with pytest.raises(hire.WeightError, match="shape"):
        step(params, t, prepared=step.prepare(other, t))


def test_prepared_weights_are_what_is_used(params: dict[str, Any], rng: np.random.Generator) -> None:
    """Handing in the int8 copy of another embedding changes what the head finds: nothing is prepared in secret."""
    step, t = hire.transform(jax.jit(decode), CONFIG), tokens(rng, 8)
    own, other = step.prepare(params, t), step.prepare(weights(rng), t)
    mixed = {key: other[key] if key.startswith("head") else own[key] for key in own}
    np.testing.assert_array_equal(step(params, t, prepared=own), step(params, t))
    assert (np.asarray(step(params, t, prepared=mixed)) != np.asarray(step(params, t))).any()


def test_threads_may_call_it_at_once(params: dict[str, Any], rng: np.random.Generator) -> None:
    traced = []

    def counted(params: dict[str, Any], t: jax.Array) -> jax.Array:
        traced.append(1)
        return decode(params, t)

    step = hire.transform(jax.jit(counted), CONFIG)
    sets = [params, weights(rng)]
    batches = [tokens(rng) for _ in range(4)]
    wanted = {(i, j): np.argmax(logits(p, t), axis=-1) for i, p in enumerate(sets) for j, t in enumerate(batches)}
    wrong: list[Any] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        try:
            for round_ in range(10):
                i, j = (number + round_) % 2, (number + round_) % 4
                got = step(sets[i], batches[j])
                if not np.array_equal(got, wanted[i, j]):
                    wrong.append((i, j))
        except Exception as error:
            wrong.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hire.HireWarning)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(traced) == 1


def test_layers_that_lie_alike_are_prepared_by_one_program(rng: np.random.Generator) -> None:
    def layers(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        for i in range(3):
            x = x + jax.nn.relu(x @ w[f"up{i}"] - 2) @ w[f"down{i}"]
        return x

    shapes = {"up": (64, 1024), "down": (1024, 64)}
    w = {f"{name}{i}": drawn(rng.normal(size=s) / 8) for name, s in shapes.items() for i in range(3)}
    rule = hire.Rule(kind="ffn", predictor=hire.Exact())
    step, x = hire.transform(layers, hire.Config(rules=(rule,))), drawn(rng.normal(size=(1, 64)))
    np.testing.assert_allclose(step(w, x), layers(w, x), rtol=1e-4, atol=1e-4)
    assert len(step.report().rewritten) == 3
    assert len(step._cache._builders) == 3
    assert len(step._cache._programs) == 1
