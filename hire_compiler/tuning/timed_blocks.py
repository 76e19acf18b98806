"""Time settings of feed-forward blocks: the replacements themselves, alone, on the weights of all blocks alike.

Blocks alike take turns, as the layers of a step do, so that no weight is found in a cache where the step would not find
it. A stack of layers is run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler import _mlir
from hire_compiler.calibration.trials import vector_of
from hire_compiler.config.rules import Config
from hire_compiler.files.progress import Progress
from hire_compiler.passes.plan.decide import decide_whole
from hire_compiler.passes.plan.predictor_bytes import unpacks
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.ffn import replace_ffn
from hire_compiler.passes.replace.replacement import written_input
from hire_compiler.runtime.materialize import materialize
from hire_compiler.runtime.target import target_for
from hire_compiler.tuning.settings import DOMINATED
from hire_compiler.tuning.timed import with_run_off
from hire_compiler.tuning.tuned import Tried
from hire_compiler.tuning.tuned_sites import Block

MEMBERS = 8  # blocks alike that take turns; more would only take memory
INPUTS = 8  # different inputs of each
Call = Callable[[Any, jax.Array, jax.Array], jax.Array]  # from arrays, rows [b, d] and a layer to the block's output


@dataclass(frozen=True)
class Ready:
    """A setting of one block: its code, and the arrays that it runs on."""

    call: Call
    arrays: Any


def alike(blocks: Sequence[Block]) -> list[list[Block]]:
    """The blocks, those together that differ in nothing but their numbers."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        match = block.match
        weights = [(w.shape, w.dtype, w.layers, w.is_view) for w in match.weights]
        size = (block.site.d, block.site.width, block.site.batch, block.site.dtype, match.region.expression)
        found.setdefault(repr((size, weights, match.x.dtype)), []).append(block)
    return list(found.values())


def time_blocks(
    blocks: Sequence[Block],
    settings: Sequence[Tried],
    inputs: Mapping[str, np.ndarray],
    values: Sequence[Any],
    told: Progress,
    *,
    all_of_them: bool = False,
) -> list[Tried]:
    """The settings with the milliseconds, bytes and reasons of each.

    Args:
      blocks: alike, and knowing their calibration.
      settings: of any of them; one without a rule is dense.
      inputs: by key, rows ``[N, d]`` of each block's input, or stacked.
      values: arguments of the step's ``@main``.
      all_of_them: also those that read much more than another.
    """
    by_site = {block.site.id: block for block in blocks}
    planned = [_planned(by_site[tried.site], tried) for tried in settings]
    if not all_of_them:
        streamed = [t.read_bytes for chosen, t in planned if not (t.lossless or t.why or unpacks(chosen.predictor))]
        planned = [(chosen, _dominated(tried, min(streamed, default=0))) for chosen, tried in planned]
    distinct = {_what(chosen): chosen for chosen, tried in planned if not tried.why}
    members, runs = blocks[:MEMBERS], {}
    calls = [(i % len(members), _rows_for(members[i % len(members)], inputs, i)) for i in range(INPUTS * len(members))]
    with _mlir.own_settings():
        for done, (name, chosen) in enumerate(distinct.items()):
            told(f"preparing {chosen.decision.predictor or 'dense'} for {members[0].site.id}", done, len(distinct))
            runs[name] = _runner([_ready(member, chosen, values) for member in members], members[0])
        seconds = with_run_off(runs, calls, told)
    return [
        replace(tried, ms=median(seconds[_what(chosen)]) * 1e3) if not tried.why else tried for chosen, tried in planned
    ]


def _planned(block: Block, tried: Tried) -> tuple[SitePlan, Tried]:
    config = Config(exact=False, rules=() if tried.rule is None else (replace(tried.rule, path=""),))
    chosen = decide_whole(block.site, block.facts, config)
    decision, layers = chosen.decision, block.site.repeat
    if tried.rule is not None and chosen.predictor is None:
        return chosen, replace(tried, why=f"left dense: {decision.reason}")
    size = chosen.candidates if tried.rule is not None else 0
    read, added = decision.sparse_bytes * layers, decision.added_bytes
    return chosen, replace(tried, read_bytes=read, added_bytes=added, candidates=size)


def _dominated(tried: Tried, least: int) -> Tried:
    if tried.lossless or tried.why or not least or tried.read_bytes <= DOMINATED * least:
        return tried
    return replace(tried, why=f"not timed: it reads {tried.read_bytes / least:.1f} times as much as another")


def _what(chosen: SitePlan) -> str:
    """What blocks alike are timed under together."""
    return repr((chosen.predictor, chosen.candidates, chosen.budgets, chosen.common, chosen.group, chosen.score))


def _rows_for(block: Block, inputs: Mapping[str, np.ndarray], number: int) -> jax.Array:
    """Rows of one call, ``[layers, b, d]``."""
    rows = inputs[block.key]
    rows = rows if rows.ndim == 3 else rows[None]
    size, count = block.site.batch, rows.shape[1]
    chosen = np.arange(number * size, (number + 1) * size) % count
    return jnp.asarray(rows[:, chosen], jnp.dtype(block.match.x.dtype))


def _runner(ready: Sequence[Ready], first: Block) -> Callable[[Any], Any]:
    call = ready[0].call

    @jax.jit
    def run(arrays: Any, xs: jax.Array) -> jax.Array:
        one = partial(call, arrays)
        if first.match.layer is None:
            return one(xs[0], jnp.int32(0))

        def body(total: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            layer, x = at
            return total + one(x, layer), None

        out = jax.eval_shape(one, xs[0], jnp.int32(0))
        return lax.scan(body, jnp.zeros(out.shape, out.dtype), (jnp.arange(len(xs), dtype=jnp.int32), xs))[0]

    return lambda given: run(ready[given[0]].arrays, given[1])


def _ready(block: Block, chosen: SitePlan, values: Sequence[Any]) -> Ready:
    if chosen.predictor is None:
        return _dense(block, values)
    own = replace(chosen, site=block.site, learned=block.facts.learned)
    replacement = replace_ffn(block.match, own, target_for(jax.default_backend()))
    preparation = replacement.preparation
    prepared = jax.jit(preparation.traced)(*(jnp.asarray(values[i]) for i in preparation.arguments))
    views = tuple(jnp.asarray(values[i]) for i in replacement.views)
    layer_of = block.match.layer
    beside = [*replacement.values[1:], *(entry.value for entry in replacement.captured)]

    def call(arrays: Any, x: jax.Array, layer: jax.Array) -> jax.Array:
        more = [
            layer.astype(jnp.dtype(value.dtype)).reshape(value.shape)
            if value is layer_of
            else jnp.zeros(value.shape, jnp.dtype(value.dtype))  # what the program adds takes as long whatever it is
            for value in beside
        ]
        return replacement.step(arrays[0], arrays[1], written_input(x, block.match.products[0]), *more)[0]

    return Ready(call, jax.block_until_ready((prepared, views)))


def _dense(block: Block, values: Sequence[Any]) -> Ready:
    """The author's block: its products, by rows or columns as its weights lie, and its code between them."""
    match = block.match
    held = [materialize(weight, values) for weight in match.weights]
    held = [w if weight.is_view else jnp.swapaxes(w, -1, -2) for w, weight in zip(held, match.weights, strict=True)]
    vectors = [vector_of(origin.weight, index, values) for origin, index in match.biases]
    sides = [int(weight.is_view) for weight in match.weights]
    dtype, stacked = jnp.dtype(match.products[0].result.dtype), match.layer is not None

    def call(arrays: Any, x: jax.Array, layer: jax.Array) -> jax.Array:
        matrices, biases = arrays
        *first, down = [lax.dynamic_index_in_dim(w, layer, keepdims=False) if stacked else w for w in matrices]
        products = [_product(x, w, side, dtype) for w, side in zip(first, sides, strict=False)]
        entries = [v[layer if len(v) > 1 else 0] for v in biases]
        h = match.region.expression.evaluate([*products, *entries], exact=True)
        return _product(h, down, 1 - sides[-1], jnp.dtype(match.down.result.dtype))

    return Ready(call, jax.block_until_ready((held, vectors)))


def _product(x: jax.Array, w: jax.Array, side: int, dtype: Any) -> jax.Array:
    return lax.dot_general(x, w, (((1,), (side,)), ((), ())), preferred_element_type=dtype)
