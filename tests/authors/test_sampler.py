"""Samplers: folded into steps that return logits, and every way in which programs read logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.runtime.predictors import PREDICTOR_ARRAYS, predict
from hire_compiler.runtime.target import target_for
from tests.support.models import array

N, D = 2048, 32


def step(params: dict[str, jax.Array], tokens: jax.Array, cache: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A decode step that returns logits and a cache."""
    x = params["embed"][tokens] + cache
    return x @ params["embed"].T / 12, cache + 1


def inputs(rng: np.random.Generator, batch: int = 2) -> tuple[Any, ...]:
    return {"embed": array(rng, N, D)}, jnp.asarray(rng.integers(0, N, batch), jnp.int32), array(rng, batch, D)


def wide(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


FORMS: dict[str, Callable[[Any], Any]] = {
    "a function": lambda args: step,
    "a jitted function": lambda args: jax.jit(step),
    "an export": lambda args: jax.export.export(jax.jit(step))(*args),
    "an export that was saved": lambda args: jax.export.deserialize(
        jax.export.export(jax.jit(step))(*args).serialize()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_greedy_head_becomes_certifiable(form: str, rng: np.random.Generator) -> None:
    args = inputs(rng)
    greedy = hire.transform(hire.with_sampler(FORMS[form](args), "greedy"))
    for _ in range(20):
        args = (args[0], *inputs(rng)[1:])
        tokens, cache = greedy(*args)
        logits, wanted = jax.jit(step)(*args)
        assert tokens.dtype == jnp.int32
        np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))
        np.testing.assert_array_equal(cache, wanted)
    (decision,) = [d for d in greedy.report().decisions if d.site.startswith("head")]
    assert decision.exactness.startswith("certified")
    (certificate,) = greedy.report().certificates
    assert certificate.proven >= 36


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_top_k_hands_out_values_and_tokens(form: str, rng: np.random.Generator) -> None:
    args = inputs(rng)
    best = hire.transform(hire.with_sampler(FORMS[form](args), "top_k", k=5))
    (values, tokens), _ = best(*args)
    logits, _ = step(*args)
    np.testing.assert_array_equal(tokens, np.argsort(-wide(logits), axis=1)[:, :5])
    np.testing.assert_allclose(values, -np.sort(-wide(logits), axis=1)[:, :5], rtol=1e-5)
    assert best.report().certificates[0].proven == 2


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.0, 0.5, None])
def test_gumbel_draws_are_those_of_dense(form: str, temperature: float | None, rng: np.random.Generator) -> None:
    args = inputs(rng)
    dense = hire.with_sampler(FORMS[form](args), "gumbel", temperature=temperature)
    sample = hire.transform(dense)
    heat = {} if temperature is not None else {"temperature": jnp.float32(0.8)}
    draws = [
        (sample(*args, key=jax.random.key(i), **heat), dense(*args, key=jax.random.key(i), **heat)) for i in range(20)
    ]
    for mine, theirs in draws:
        np.testing.assert_array_equal(mine[0], theirs[0])
    assert sample.report().certificates[0].proven >= 36
    if temperature == 0.0:
        np.testing.assert_array_equal(draws[0][0][0], jnp.argmax(step(*args)[0], axis=-1))
    elif temperature is None:
        assert len({tuple(np.asarray(mine[0])) for mine, _ in draws}) > 1


def test_gumbel_draws_follow_the_softmax(rng: np.random.Generator) -> None:
    logits = jnp.asarray([1.0, 3.0, 2.0, -1.0])
    sample = hire.with_sampler(lambda x: x, "gumbel", temperature=2.0)
    draws = [int(sample(logits, key=jax.random.key(i))) for i in range(2000)]
    share = np.bincount(draws, minlength=4) / 2000
    np.testing.assert_allclose(share, jax.nn.softmax(logits / 2), atol=0.04)


@pytest.mark.slow
def test_donation_static_arguments_and_names_are_kept(rng: np.random.Generator) -> None:
    def scaled(params: Any, x: jax.Array, cache: jax.Array, power: int) -> Any:
        return {"logits": x @ params["embed"].T * power, "cache": cache + power}

    jitted = jax.jit(scaled, static_argnums=3, donate_argnums=2)
    greedy = hire.with_sampler(jitted, "greedy")
    assert greedy.__name__ == "scaled"
    params, x = {"embed": array(rng, N, D)}, array(rng, 2, D)
    cache = array(rng, 2, D)
    result = hire.transform(greedy)(params, x, cache, 2)
    assert cache.is_deleted()
    np.testing.assert_array_equal(result["logits"], np.argmax(wide(x) @ wide(params["embed"]).T, axis=1))
    sites = hire.inspect(greedy, params, x, array(rng, 2, D), 2).sites
    assert sites[0].weights == ("params['embed']",)


@pytest.mark.slow
def test_the_last_position_of_a_prompt_is_sampled(rng: np.random.Generator) -> None:
    embed, x = array(rng, N, D), array(rng, 2, 30, D)
    prefill = lambda x, w: x @ w.T  # noqa: E731
    greedy = hire.transform(hire.with_sampler(prefill, "greedy"))
    np.testing.assert_array_equal(greedy(x, embed), np.argmax(wide(x)[:, -1] @ wide(embed).T, axis=1))
    assert greedy.report().sites[0].batch == 2
    first = hire.with_sampler(prefill, "greedy", position=0)(x, embed)
    np.testing.assert_array_equal(first, np.argmax(wide(x)[:, 0] @ wide(embed).T, axis=1))


def test_the_logits_are_the_widest_result_or_the_one_that_is_named(rng: np.random.Generator) -> None:
    x, w = array(rng, 2, D), array(rng, N, D)
    two = lambda x, w: (x @ w.T, -(x @ w.T))  # noqa: E731
    with pytest.raises(
        hire.ConfigError, match=r"which result of .* 2 of them could; it returns \[0\] float32\[2, 2048\]"
    ):
        hire.with_sampler(two, "greedy")(x, w)
    best, worst = hire.with_sampler(two, "greedy", logits="[1]")(x, w)
    np.testing.assert_array_equal(worst, np.argmin(wide(x) @ wide(w).T, axis=1))
    assert best.shape == (2, N)
    with pytest.raises(hire.ConfigError, match=r"has no result '\[2\]'"):
        hire.with_sampler(two, "greedy", logits="[2]")(x, w)
    with pytest.raises(hire.ConfigError, match="None of them could"):
        hire.with_sampler(lambda x: x.astype(int), "greedy")(x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: hire.with_sampler(step, "nucleus"), hire.ConfigError, "use 'greedy', 'top_k' or 'gumbel'"),
        (lambda: hire.with_sampler(step, "top_k"), hire.ConfigError, "'top_k' needs k="),
        (lambda: hire.with_sampler(step, "greedy", k=3), hire.ConfigError, "the others take none"),
        (lambda: hire.with_sampler(step, "top_k", k=0), hire.ConfigError, "k is 0"),
        (lambda: hire.with_sampler(step, "greedy", temperature=0.5), hire.ConfigError, "only 'gumbel' has one"),
        (lambda: hire.with_sampler(step, "gumbel", temperature=-1.0), hire.ConfigError, "at least 0"),
        (lambda: hire.with_sampler(step, "gumbel", temperature=float("nan")), hire.ConfigError, "temperature is nan"),
        (lambda: hire.with_sampler(3, "greedy"), hire.CaptureError, "not int"),
        (lambda: hire.with_sampler(hire.transform(step), "greedy"), hire.CaptureError, "with_sampler comes first"),
    ],
)
def test_a_sampler_without_meaning_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_what_a_call_lacks_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(hire.ConfigError, match="needs key="):
        hire.with_sampler(step, "gumbel")(*inputs(rng))
    with pytest.raises(hire.ConfigError, match="k is 4000, but there are only 2048 logits"):
        hire.with_sampler(step, "top_k", k=4000)(*inputs(rng))


# --------------------------------------------------------------------------- every reader of logits


def top_p(z: jax.Array, key: jax.Array) -> jax.Array:
    sorted_ = jnp.take_along_axis(z, jnp.argsort(-z, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(sorted_, axis=-1)
    kept = jnp.cumsum(probabilities, axis=-1) - probabilities < 0.8
    least = jnp.min(jnp.where(kept, sorted_, jnp.inf), axis=-1, keepdims=True)
    # The draw is made in the order of the vocabulary: in sorted order rounding would exchange the noise of neighbours.
    return jax.random.categorical(key, jnp.where(z >= least, z, -jnp.inf))


def top_k_filter(z: jax.Array, key: jax.Array) -> jax.Array:
    threshold = jax.lax.top_k(z, 20)[0][:, -1:]
    return jax.random.categorical(key, jnp.where(z < threshold, -jnp.inf, z))


READERS: dict[str, Callable[[jax.Array, jax.Array], Any]] = {
    "argmax": lambda z, key: jnp.argmax(z, -1),
    "top_k": lambda z, key: jax.lax.top_k(z, 8),
    "softmax": lambda z, key: jax.nn.softmax(z),
    "log_softmax": lambda z, key: jax.nn.log_softmax(z),
    "temperature, then softmax": lambda z, key: jax.nn.softmax(z / 0.7),
    "softcap": lambda z, key: jax.nn.softmax(5 * jnp.tanh(z / 5)),
    "Gumbel-max": lambda z, key: jax.random.categorical(key, z),
    "top-p": top_p,
    "top-k filter, then a draw": top_k_filter,
    "returned": lambda z, key: z,
    "several": lambda z, key: (jnp.argmax(z, -1), jax.nn.log_softmax(z), jax.random.categorical(key, z), z.max(-1)),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("full", [True, False])
def test_every_reader_gets_what_its_logits_say(name: str, full: bool, rng: np.random.Generator) -> None:
    """Dense at full width; at small width the reader applied to exact candidates among predicted logits, in float64."""
    read = READERS[name]
    x, w, bias, key = array(rng, 3, D) / 4, array(rng, N, D), array(rng, N), jax.random.key(5)
    rule = hire.Rule(kind="head", predictor=hire.LowRank(24, dtype="float32"), candidates=N if full else 64)
    program = lambda x, w, bias, key: read(x @ w.T + bias, key)  # noqa: E731
    sparse = hire.transform(jax.jit(program), hire.Config(rules=(rule,)))
    got = sparse(x, w, bias, key)
    assert sparse.report().rewritten
    logits = wide(x) @ wide(w).T
    if not full:
        (prepared,) = sparse.prepare(x, w, bias, key).values()
        arrays = {key: value for key, value in prepared.items() if key in PREDICTOR_ARRAYS}
        scores = wide(predict(x, arrays, target_for("cpu")))
        if name == "Gumbel-max":  # the noise takes part in choosing
            return
        ids = np.argsort(-(scores + wide(bias)), axis=1)[:, :64]
        exact = np.take_along_axis(logits, ids, axis=1)
        dense, logits = logits, scores.copy()
        np.put_along_axis(logits, ids, exact, axis=1)
        assert np.abs(logits - dense).max() > 0.01
    wanted = read(jnp.asarray(logits + wide(bias), jnp.float32), key)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)
