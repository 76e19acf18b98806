"""Weights that are stored narrow: gathered as they are stored, the author's own arithmetic repeated on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import hire_compiler as hire
from tests.support.drawn import drawn
from tests.support.narrow_matrices import (
    EXACT,
    FF,
    FORMS,
    FULL,
    SLOW,
    STACKED,
    STORED,
    VOCABULARY,
    Block,
    D,
    Params,
    Stored,
    close,
    inputs,
    int8,
    scale,
)

Matrix = Callable[[Params, str, jax.Array], jax.Array]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize(("gated", "batch"), FORMS)
@pytest.mark.parametrize("name", STORED)
def test_a_block_skips_zeros_of_rows_as_they_are_stored(name: str, gated: bool, batch: int) -> None:
    block, x = Block(STORED[name], gated), inputs(batch)
    params = block.params(0)
    step = hire.transform(jax.jit(block), EXACT)
    close(step(params, x), jax.jit(block)(params, x), 2e-6)
    (site,), (decision,) = step.report().sites, step.report().decisions
    wide = STORED[name].dtype == "float32"
    assert (site.dtype, site.computed, decision.action) == (STORED[name].dtype, "" if wide else "float32", "rewritten")
    assert wide or decision.dense_bytes < 4 * D * FF * (3 if gated else 2) // 2


def test_blocks_that_differ_in_a_zero_point_alone_share_no_code(rng: np.random.Generator) -> None:
    """Same shapes, same types, same scale: only the number in front of the product tells them apart."""
    params = {name: jnp.asarray(rng.integers(0, 16, (2, D, FF)), jnp.int8) for name in ("up", "down")}

    def blocks(p: Params, x: jax.Array) -> jax.Array:
        for i, zero in enumerate((8.0, 7.0)):
            up, down = ((p[name][i].astype(jnp.float32) - zero) / 40 for name in ("up", "down"))
            x = x + jax.nn.relu(x @ up) @ down.T
        return x

    x = inputs(1)
    close(hire.transform(jax.jit(blocks), FULL)(params, x), jax.jit(blocks)(params, x), 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_full_width_is_dense(name: str) -> None:
    block = Block(STORED[name], gated=True)
    params = block.params(3)
    step = hire.transform(jax.jit(block), FULL)
    for batch in (1, 4):
        close(step(params, inputs(batch)), jax.jit(block)(params, inputs(batch)), 2e-6)
    assert step.report().rewritten


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("name", STACKED)
def test_a_block_that_computes_in_bfloat16(name: str, batch: int) -> None:
    block, x = Block(STORED[name], gated=True), inputs(batch, jnp.bfloat16)
    params = block.params(0)
    step = hire.transform(jax.jit(block), EXACT)
    close(step(params, x), jax.jit(block)(params, x), 3e-2)
    assert step.report().sites[0].dtype == STORED[name].dtype
    assert step.report().rewritten


@dataclass(frozen=True)
class Head:
    stored: Stored

    def params(self, seed: int) -> Params:
        return self.stored.make(np.random.default_rng(seed), D, VOCABULARY)

    def __call__(self, p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = self.stored.product(p, x)
        return jnp.argmax(logits, -1), lax.top_k(logits, 4)[0]


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("name", STORED)
def test_a_head_computes_its_candidates_as_they_are_stored(name: str) -> None:
    head = Head(STORED[name])
    params = head.params(0)
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=4), candidates=VOCABULARY)
    step = hire.transform(jax.jit(head), hire.Config(rules=(rule,)))
    for batch in (1, 4):
        (winner, values), (wanted, best) = (f(params, inputs(batch)) for f in (step, jax.jit(head)))
        assert (winner == wanted).all()
        close(values, best, 2e-6)
    assert step.report().rewritten


def test_a_head_that_is_stored_narrow_is_dense_by_default_and_says_why() -> None:
    head = Head(STORED["channels, before"])
    step = hire.transform(jax.jit(head))
    step(head.params(0), inputs(1))
    (decision,) = step.report().decisions
    assert decision.action == "dense"
    assert "stored narrow already (int8)" in decision.reason


def stack(block: Block, layers: int) -> dict[str, Any]:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(block.params(seed) for seed in range(layers)))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("name", STACKED)
def test_layers_in_a_scan_are_read_from_their_stack(name: str, batch: int) -> None:
    block = Block(STORED[name], gated=True)
    params, x = stack(block, 3), inputs(batch)

    def layers(p: dict[str, Any], x: jax.Array) -> jax.Array:
        def body(x: jax.Array, own: dict[str, Any]) -> tuple[jax.Array, None]:
            y = x + block(own, x)
            return y / jnp.max(jnp.abs(y)), None

        return lax.scan(body, x, p)[0]

    step = hire.transform(jax.jit(layers), EXACT)
    close(step(params, x), jax.jit(layers)(params, x), 5e-6)
    (site,) = step.report().sites
    assert (site.repeat, site.dtype) == (3, STORED[name].dtype)
    assert step.report().rewritten


@pytest.mark.slow
@pytest.mark.parametrize("name", ["channels, before", "channels, after", "one scale, after"])
def test_neurons_are_ranked_by_the_scaled_product(name: str) -> None:
    """Scales differ by a factor of 100: unscaled products would choose other neurons."""
    d, width, rng = 128, 1024, np.random.default_rng(0)
    scales = jnp.asarray(10 ** rng.uniform(-2, 0, width if name != "one scale, after" else ()) / 127, jnp.float32)
    params = {"q": int8(rng, d, width), "s": scales}
    down = {"q": int8(rng, width, d), "s": scale(rng)}
    product = STORED[name].product

    def block(p: dict[str, Any], x: jax.Array) -> jax.Array:
        return product(p["down"], jax.nn.relu(product(p["up"], x)))

    x, given = drawn(rng.normal(size=(1, d)), jnp.float32), {"up": params, "down": down}
    rule = hire.Rule(kind="ffn", predictor=hire.Quantized(bits=4, columns=32), candidates=width // 4, group=1)
    step = hire.transform(jax.jit(block), hire.Config(rules=(rule,)))
    z = np.asarray(product(params, x))
    best = np.argsort(-z[0])[: width // 4]
    kept = np.zeros_like(z)
    kept[0, best] = np.maximum(z[0, best], 0)
    wanted, dense = product(down, jnp.asarray(kept)), block(given, x)
    got = step(given, x)
    assert step.report().rewritten
    assert step.report().sites[0].activation == "relu"
    assert jnp.linalg.norm(got - wanted) < 0.15 * jnp.linalg.norm(wanted)
    assert jnp.linalg.norm(dense) > 0


@pytest.mark.slow
def test_rows_are_gathered_narrow() -> None:
    block = Block(STORED["channels, before"], gated=True)
    params, x = block.params(0), inputs(1)
    step = hire.transform(jax.jit(block), EXACT)
    step(params, x)
    decision = step.report().decisions[0]
    assert decision.dense_bytes == 3 * D * FF + 4 * (2 * FF + D)
    assert decision.added_bytes <= 3 * (D + 4) * FF + 8 * FF  # copies by rows are narrow, too
