"""``group_topk``: what it keeps, its gradients, and that the compiler sees and repeats its choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

D, WIDTH, K, GROUP = 24, 128, 16, 4
Block = Callable[..., jax.Array]
Params = dict[str, jax.Array]


def keep(h: jax.Array, **options: Any) -> jax.Array:
    return hire.group_topk(h, K, GROUP, **options)


def oracle(h: np.ndarray) -> np.ndarray:
    """Keeps the groups by a plain sort, in float64."""
    strength = np.abs(h).reshape(*h.shape[:-1], -1, GROUP).max(-1)
    last = -np.sort(-strength, axis=-1)[..., K // GROUP - 1, None]
    return np.where(np.repeat(strength >= last, GROUP, axis=-1), h, 0)


def plain(w: Params, x: jax.Array) -> jax.Array:
    return keep(jax.nn.relu(x @ w["up"])) @ w["down"]


def by_gate(w: Params, x: jax.Array) -> jax.Array:
    return (keep(jax.nn.silu(x @ w["gate"])) * (x @ w["up"])) @ w["down"]


def by_both(w: Params, x: jax.Array) -> jax.Array:
    return keep(jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


def scanned(w: Params, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (x + by_gate(w, x), None), x, w)[0]


def weights(rng: np.random.Generator, dtype: Any = jnp.float32) -> Params:
    shapes = {"gate": (D, WIDTH), "up": (D, WIDTH), "down": (WIDTH, D)}
    return {name: drawn(rng.normal(size=s) / np.sqrt(s[0]), dtype) for name, s in shapes.items()}


def stacked(w: Params) -> Params:
    return jax.tree.map(lambda a: jnp.stack([a, a[::-1], a * 0.7]), w)


def rule(**options: Any) -> hire.Config:
    return hire.Config(rules=(hire.Rule(kind="ffn", group=GROUP, max_batch=64, **options),))


@pytest.mark.parametrize("shape", [(WIDTH,), (3, WIDTH), (2, 3, WIDTH)])
def test_it_keeps_the_strongest_groups(shape: tuple[int, ...]) -> None:
    h = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(keep(jnp.asarray(h)), oracle(h))
    np.testing.assert_array_equal(jax.jit(keep)(jnp.asarray(h)), oracle(h))


def test_vmap_chooses_for_every_row() -> None:
    h = np.random.default_rng(1).normal(size=(3, 2, WIDTH)).astype(np.float32)
    np.testing.assert_array_equal(jax.vmap(keep, in_axes=1)(jnp.asarray(h)), oracle(h.swapaxes(0, 1)))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint, jax.jit], ids=["plain", "remat", "jit"])
def test_the_gradient_reaches_what_was_kept(wrap: Callable[..., Any]) -> None:
    h = jnp.asarray(np.random.default_rng(2).normal(size=(2, WIDTH)), jnp.float32)
    gradient = jax.grad(wrap(lambda h: (keep(h) * jnp.arange(WIDTH)).sum()))(h)
    np.testing.assert_array_equal(gradient, np.where(oracle(np.asarray(h)) != 0, np.arange(WIDTH), 0))
    through = jax.grad(wrap(lambda h: (keep(h, straight_through=True) * jnp.arange(WIDTH)).sum()))(h)
    np.testing.assert_array_equal(through, np.broadcast_to(np.arange(WIDTH), h.shape))
    each = jax.vmap(jax.grad(wrap(lambda h: (keep(h) * jnp.arange(WIDTH)).sum())))(h)
    np.testing.assert_array_equal(each, gradient)


@pytest.mark.parametrize(
    ("k", "group", "said"),
    [(16, 5, "group 5 must divide"), (6, 4, "group 4 must divide"), (256, 4, "more than the 128 neurons"),
     (0, 4, "k is 0"), (16, 2.0, "group is 2.0")],
)  # fmt: skip
def test_bad_sizes_are_errors(k: Any, group: Any, said: str) -> None:
    with pytest.raises(hire.ConfigError, match=said):
        hire.group_topk(jnp.ones((2, WIDTH)), k, group)
    with pytest.raises(hire.ConfigError, match="floats"):
        hire.group_topk(jnp.ones((2, WIDTH), jnp.int32), 16, 4)


def _shard_mapped(block: Block) -> Block:
    mesh = jax.make_mesh((1,), ("i",))
    none = jax.sharding.PartitionSpec()
    return jax.shard_map(block, mesh=mesh, in_specs=(none, none), out_specs=none)


def _with_gradient(block: Block) -> Block:
    return jax.value_and_grad(lambda w, x: (block(w, x) ** 2).sum())


AFTER: dict[str, Callable[[Block], Block]] = {
    "jit": jax.jit,
    "grad": _with_gradient,
    "remat and grad": lambda block: _with_gradient(jax.checkpoint(block)),
    "vmap": lambda block: jax.vmap(block, in_axes=(None, 0)),
    "shard_map": _shard_mapped,
}


@pytest.mark.diagonal(keep=3)
@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("block", [plain, by_gate, by_both], ids=lambda block: block.__name__)
def test_the_compiler_sees_it(block: Block, name: str) -> None:
    sites = hire.inspect(AFTER[name](block), weights(np.random.default_rng(3)), jnp.ones((2, D))).sites
    assert [site.selection for site in sites] == ["group_topk"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", [plain, by_gate, scanned], ids=lambda block: block.__name__)
def test_the_exact_default_skips_what_it_drops(block: Block, dtype: str) -> None:
    rng = np.random.default_rng(4)
    w = weights(rng, dtype)
    w = stacked(w) if block is scanned else w
    step = hire.transform(block)
    for batch in (1, 1, 3):
        x = drawn(rng.normal(size=(batch, D)), dtype)
        want = np.asarray(jax.jit(block)(w, x), np.float32)
        atol = 1e-5 if dtype == "float32" else 0.05
        np.testing.assert_allclose(np.asarray(step(w, x), np.float32), want, rtol=0, atol=atol * np.abs(want).max())
        (decision,) = step.report().rewritten
        assert (decision.predictor, decision.group) == ("Exact()", GROUP)
        if batch == 1:
            assert decision.candidates == K
    if block is not scanned:
        (certificate,) = step.report().certificates
        assert certificate.proven == certificate.rows == 3


def test_a_choice_by_both_products_is_left_to_predictors() -> None:
    w, x = weights(np.random.default_rng(5)), jnp.ones((1, D))
    step = hire.transform(by_both)
    step(w, x)
    assert "reads both products" in step.report().decisions[0].reason
    with pytest.raises(hire.ConfigError, match=r"Exact\(\) is impossible"):
        hire.transform(by_both, rule(predictor=hire.Exact(), density=0.5))(w, x)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("block", [plain, by_gate, by_both, scanned], ids=lambda block: block.__name__)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_predictor_proposes_and_the_model_chooses(block: Block, batch: int) -> None:
    """With a predictor that misses little and some room, the kept neurons are the model's own."""
    rng = np.random.default_rng(6)
    w = weights(rng)
    w = stacked(w) if block is scanned else w
    x = drawn(rng.normal(size=(batch, D)), jnp.float32)
    want = np.asarray(jax.jit(block)(w, x))
    room = (
        WIDTH if block is by_both else min(2 * K * batch + 4 * GROUP, 3 * WIDTH // 4)
    )  # there the gate alone is a weak hint
    step = hire.transform(block, rule(predictor=hire.Quantized(bits=8), candidates=room))
    np.testing.assert_allclose(step(w, x), want, rtol=0, atol=1e-4 * np.abs(want).max())
    (decision,) = step.report().rewritten
    assert ("the model's own choice" in decision.exactness) == (room < WIDTH)


def test_what_would_change_the_choice_is_an_error() -> None:
    w, x = weights(np.random.default_rng(7)), jnp.ones((1, D))
    low = hire.LowRank(rank=4)
    cutting = hire.Config(rules=(hire.Rule(kind="ffn", group=2, predictor=low, density=0.5),))
    with pytest.raises(hire.ConfigError, match="keeps groups of 4 neurons, group 2 would cut them"):
        hire.transform(plain, cutting)(w, x)
    with pytest.raises(hire.ConfigError, match="8 candidates cannot hold the 16"):
        hire.transform(plain, rule(predictor=low, candidates=8))(w, x)
