"""Feed-forward stacks: layers as people write them, other dense forms, and the rewritten ones; times a layer.

So many layers that what a rewritten call reads does not fit into the card's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hire_compiler as hire
from benchmarks.best_dense_ffn import Block, Layer, as_written, normalize
from benchmarks.ffn import BLOCKS, few_active
from benchmarks.gpu.head import held
from benchmarks.gpu.measure import Clock, Row, Run, Table, kernels

ACTIVE = 0.08
STATES = 8
Stack = Callable[[list[Layer], jax.Array], jax.Array]


@dataclass(frozen=True)
class Shape:
    """A stack of feed-forward blocks."""

    block: str
    d: int
    width: int
    layers: int
    batch: int = 1
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        active = "5 % pass" if self.block == "gemma3n" else f"{ACTIVE:.0%} active"
        return (
            f"{self.block} {self.d}→{self.width}, {active}, {self.dtype}, batch {self.batch}, a layer of {self.layers}"
        )


SHAPES = (
    Shape("relu", 2048, 8192, 8), Shape("reglu", 2048, 5632, 8), Shape("gemma3n", 2048, 8192, 8),
    Shape("relu", 4096, 16384, 4), Shape("relu", 2048, 8192, 8, batch=8), Shape("gemma3n", 2048, 8192, 8, batch=8),
    Shape("reglu", 2048, 5632, 8, batch=8), Shape("relu", 4096, 16384, 4, batch=8),
    Shape("relu", 2048, 8192, 4, dtype="float32"), Shape("gemma3n", 2048, 8192, 4, dtype="float32"),
)  # fmt: skip
QUICK = (Shape("relu", 128, 8192, 2), Shape("gemma3n", 128, 8192, 2, batch=8))


def blocks(clock: Clock, quick: bool) -> Iterator[dict[str, Any]]:
    """One table a shape."""
    for shape in QUICK if quick else SHAPES:
        if clock.is_over():
            yield {"title": str(shape), "dense_bytes": 0, "rows": [], "note": "left out: no time was left"}
            continue
        yield _table(shape, clock)


def _table(shape: Shape, clock: Clock) -> dict[str, Any]:
    block = _block(shape)
    layers = _layers(shape, block)
    states = list(jax.random.normal(jax.random.key(7), (STATES, shape.batch, shape.d), jnp.dtype(shape.dtype)))
    table = Table(str(shape), sum(w.nbytes for w in layers[0].values()), clock)
    expected = [jax.jit(as_written(block))(layers, x) for x in states]
    for form, (stack, store) in _dense(block, shape.batch).items():
        table.add(form, "dense", lambda row, s=stack, store=store: _dense_run(row, s, store, layers, states, expected))
    for form, rule in _rules(shape).items():
        step = hire.transform(jax.jit(as_written(block)), hire.Config(rules=(rule,) if rule else ()))
        table.add(form, "hire", lambda row, step=step: _hire_run(row, step, layers, states, expected))
    table.measure()
    for row in table.rows:
        row.chained_us, row.chained_fastest_us, row.single_us = (
            t / shape.layers for t in (row.chained_us, row.chained_fastest_us, row.single_us)
        )
    return table.to_dict()


def _block(shape: Shape) -> Block:
    block, _ = BLOCKS[shape.block]
    return block if shape.block == "gemma3n" else Block(few_active(ACTIVE), block.gated)


def _layers(shape: Shape, block: Block) -> list[Layer]:
    names = ("gate", "up", "down") if block.gated else ("up", "down")

    def layer(key: jax.Array) -> Layer:
        keys = jax.random.split(key, len(names))
        sizes = {name: (shape.width, shape.d) if name == "down" else (shape.d, shape.width) for name in names}
        return {
            name: (jax.random.normal(k, sizes[name]) * sizes[name][0] ** -0.5).astype(shape.dtype)
            for name, k in zip(names, keys, strict=True)
        }

    return [jax.jit(layer)(key) for key in jax.random.split(jax.random.key(3), shape.layers)]


def _rules(shape: Shape) -> dict[str, hire.Rule]:
    """What fits all active neurons of the batch, and a predictor."""
    share = 1 - (1 - (0.05 if shape.block == "gemma3n" else ACTIVE)) ** shape.batch
    exact = hire.Rule(kind="ffn", predictor=hire.Exact(), density=min(1.25 * share, 1.0), group=1)
    rules = {f"Exact(), {1.25 * share:.0%} fit": exact}
    predictor = hire.LowRank(rank=min(256, shape.d // 2), dtype="bfloat16")
    # A decomposition of 4096 columns takes long; the cut of Gemma 3n needs the gates of all neurons.
    if shape.d <= 2048 and shape.dtype == "bfloat16" and shape.block != "gemma3n":
        rules["LowRank(256), 9 % kept"] = hire.Rule(kind="ffn", predictor=predictor, density=0.09, group=8)
    return rules


def _dense(block: Block, batch: int) -> dict[str, tuple[Stack, Callable[[Layer], Any]]]:
    """By form: the stack, and from a layer as written to the layer as it wants it."""

    def stack(first: Callable[..., jax.Array], down: Callable[..., jax.Array]) -> Stack:
        def run(layers: list[Layer], x: jax.Array) -> jax.Array:
            for w in layers:
                h = block.hidden(lambda matrix, x=x: first(x, matrix), w)
                x = normalize(x + down(h, w["down"]).astype(x.dtype))
            return x

        return run

    def rows(w: Layer) -> Layer:
        return {name: jnp.asarray(matrix.T.copy()) for name, matrix in w.items()}

    def contracted(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.dot_general(x, w, (((1,), (1,)), ((), ())))

    def wide(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)

    def reduced(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(w.astype(jnp.float32) * x.astype(jnp.float32), axis=-1).astype(x.dtype)[None]

    forms: dict[str, tuple[Stack, Callable[[Layer], Any]]] = {
        "dense, as written": (as_written(block), lambda w: w),
        "dense, [out, in]": (stack(contracted, contracted), rows),
        "dense, float32 results": (stack(wide, wide), lambda w: w),
    }
    if batch == 1:
        forms["dense, multiplied and reduced"] = (stack(reduced, reduced), rows)
    if block.gated:
        forms["dense, gate and up joined"] = (_joined(block), _join)
    return forms


def _join(w: Layer) -> Layer:
    return {"first": jnp.concatenate([w["gate"], w["up"]], axis=1), "down": w["down"]}


def _joined(block: Block) -> Stack:
    def run(layers: list[Layer], x: jax.Array) -> jax.Array:
        for w in layers:
            gate, up = jnp.split(x @ w["first"], 2, axis=-1)
            x = normalize(x + (block.act(gate) * up) @ w["down"])
        return x

    return run


def _dense_run(row: Row, stack: Stack, store: Any, layers: list[Layer], states: list[jax.Array], expected: Any) -> Run:
    stored = [store(w) for w in layers]
    compiled = jax.jit(stack).lower(stored, states[0]).compile()
    row.kernels = kernels(compiled.as_text() or "")
    row.equal = _off([compiled(stored, x) for x in states], expected)
    xs = cycle(states)
    return lambda: compiled(stored, next(xs))


def _hire_run(row: Row, step: Any, layers: list[Layer], states: list[jax.Array], expected: Any) -> Run | None:
    decisions = step.report(layers, states[0]).decisions
    rewritten = [decision for decision in decisions if decision.action == "rewritten"]
    if not rewritten:
        row.note = f"left dense: {decisions[0].reason}" if decisions else "no site was found"
        return None
    row.nbytes = sum(d.sparse_bytes for d in rewritten) // len(rewritten)
    row.note = f"{len(rewritten)} of {len(layers)} layers, {rewritten[0].candidates} neurons; {rewritten[0].exactness}"
    row.equal = _off([step(layers, x) for x in states], expected)
    row.proofs = held(step)
    prepared = step.prepare(layers, states[0])
    outer = jax.jit(lambda w, x, q: step(w, x, prepared=q)).lower(layers, states[0], prepared).compile()
    row.kernels = kernels(outer.as_text() or "")
    xs = cycle(states)
    return lambda: outer(layers, next(xs), prepared)


def _off(got: list[jax.Array], expected: list[jax.Array]) -> str:
    """How far results are off, relative to dense's, in the norm of all."""
    a, b = (np.stack([np.asarray(y, np.float32) for y in ys]) for ys in (got, expected))
    return f"off by {np.linalg.norm(a - b) / np.linalg.norm(b):.1e}"
