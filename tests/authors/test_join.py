"""``join``: an engine's program of logits and its sampler as one step, of which the token leaves."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.models import array

N, D, BATCH = 2048, 32, 2
Params = dict[str, jax.Array]


@jax.jit
def compute_logits(params: Params, hidden: jax.Array) -> jax.Array:
    return hidden @ params["head"].T


@functools.partial(jax.jit, static_argnums=1)
def sample(key: jax.Array, mesh: str, logits: jax.Array, metadata: dict[str, jax.Array]) -> jax.Array:
    """As engines write it: the logits are not the first argument, and one is static."""
    assert mesh == "a mesh"
    drawn = jax.random.categorical(key, logits / metadata["temperature"][:, None])
    return jnp.where(metadata["greedy"], jnp.argmax(logits, -1), drawn)


def greedy(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, -1)


def inputs(rng: np.random.Generator) -> tuple[Params, jax.Array]:
    return {"head": array(rng, N, D)}, array(rng, BATCH, D)


@pytest.mark.slow
def test_a_head_becomes_certified_and_tokens_are_those_of_the_two_programs(rng: np.random.Generator) -> None:
    params, hidden = inputs(rng)
    metadata = {"temperature": jnp.asarray([1.0, 0.7]), "greedy": jnp.asarray([True, False])}
    step = hire.transform(hire.join(compute_logits, sample, into="logits"))
    for i in range(10):
        hidden = array(rng, BATCH, D)
        key = jax.random.key(i)
        wanted = sample(key, "a mesh", compute_logits(params, hidden), metadata)
        np.testing.assert_array_equal(step(params, hidden, key, "a mesh", metadata), wanted)
    report = step.report()
    assert [d.exactness.startswith("certified") for d in report.decisions] == [True]
    assert report.certificates[0].proven >= 18
    assert report.sites[0].weights == ("params['head']",)


@pytest.mark.slow
def test_state_goes_through_and_what_is_donated_stays_so(rng: np.random.Generator) -> None:
    @functools.partial(jax.jit, donate_argnames="cache")
    def model(params: Params, cache: Any, tokens: jax.Array) -> Any:
        cache = {"rows": cache["rows"] + params["head"][tokens]}
        return {"logits": cache["rows"] @ params["head"].T, "cache": cache}

    def first_of(logits: jax.Array, params: Params) -> Any:  # params is one argument of both
        best = jnp.argmax(logits, -1)
        return {"token": best, "row": params["head"][best]}

    params, rows = inputs(rng)
    tokens = jnp.asarray([3, 5])
    step = hire.transform(hire.join(model, first_of, logits="['logits']"))
    cache = {"rows": rows + 0}
    got = step(params, cache, tokens=tokens)
    assert cache["rows"].is_deleted()
    logits = (rows + params["head"][tokens]) @ params["head"].T
    np.testing.assert_array_equal(got["logits"]["token"], jnp.argmax(logits, -1))
    np.testing.assert_allclose(got["cache"]["rows"], rows + params["head"][tokens], rtol=1e-6)
    assert step.report().rewritten


def test_defaults_and_arguments_by_name_only_are_kept(rng: np.random.Generator) -> None:
    def scaled(params: Params, x: jax.Array, scale: float = 2.0) -> jax.Array:
        return scale * (x @ params["head"].T)

    def best(x: jax.Array, count: int, *, largest: bool = True) -> jax.Array:  # its x are the logits
        return jax.lax.top_k(x if largest else -x, count)[0]

    params, x = inputs(rng)
    step = hire.join(scaled, jax.jit(best, static_argnames=("count", "largest")))
    logits = x @ params["head"].T
    np.testing.assert_allclose(step(params, x, count=3), jax.lax.top_k(2 * logits, 3)[0], rtol=1e-5)
    np.testing.assert_allclose(step(params, x, 1.0, 3, largest=False), jax.lax.top_k(-logits, 3)[0], rtol=1e-5)


def test_compiler_options_of_both_are_those_of_the_one_program(rng: np.random.Generator) -> None:
    def part(**options: Any) -> Any:
        return jax.jit(lambda logits: jnp.argmax(logits, -1), compiler_options=options)

    level = "xla_backend_optimization_level"
    one = jax.jit(lambda w, x: x @ w.T, compiler_options={level: 0})
    joined = hire.join(one, part(**{level: 0, "xla_cpu_enable_fast_math": False}))
    params, x = inputs(rng)
    np.testing.assert_array_equal(joined(params["head"], x), jnp.argmax(x @ params["head"].T, -1))
    with pytest.raises(hire.ConfigError, match=f"compiled with {level}=0, .* with 1: one program has one"):
        hire.join(one, part(**{level: 1}))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: hire.join(3, greedy), hire.CaptureError, "join takes a function .*, not int"),
        (lambda: hire.join(hire.transform(compute_logits), greedy), hire.CaptureError, "join comes first"),
        (lambda: hire.join(lambda *args: args, greedy), hire.CaptureError, r"takes \*args, .* names them"),
        (lambda: hire.join(compute_logits, lambda z, **rest: z), hire.CaptureError, r"takes \*\*rest"),
        (lambda: hire.join(compute_logits, greedy, into=1), hire.ConfigError, "into is 1, .* greedy .* takes logits"),
        (lambda: hire.join(compute_logits, greedy, into="z"), hire.ConfigError, "into is 'z'"),
    ],
)
def test_functions_that_do_not_fit_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_call_that_does_not_fit_says_what_is_wrong(rng: np.random.Generator) -> None:
    params, hidden = inputs(rng)
    step = hire.join(compute_logits, greedy)
    with pytest.raises(hire.ConfigError, match="takes 2 arguments by position, not 3: params, hidden"):
        step(params, hidden, 1)
    with pytest.raises(hire.ConfigError, match="compute_logits needs hidden"):
        step(params)
    with pytest.raises(hire.ConfigError, match="has no argument 'hiden'; it takes params, hidden"):
        step(params, hiden=hidden)

    def masked(logits: jax.Array, allowed: jax.Array) -> jax.Array:
        return jnp.argmax(logits + allowed, -1)

    message = r"masked does not take the logits of compute_logits, float32\[2, 2048\], as its logits: .*shape"
    with pytest.raises(hire.ConfigError, match=message):
        hire.join(compute_logits, masked)(params, hidden, jnp.zeros((3, 7)))
    with pytest.raises(hire.ConfigError, match="which result of two holds the logits"):
        hire.join(two, greedy)(params, hidden)


def two(params: Params, hidden: jax.Array) -> Any:
    return compute_logits(params, hidden), compute_logits(params, -hidden)
