"""A whole greedy decode step of Gemma 3's shape, bfloat16, random weights: as written, dense forms, rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import hire_compiler as hire
from benchmarks.gpu.head import RULES, held
from benchmarks.gpu.measure import Clock, Row, Run, Table, kernels
from examples.models import gemma3

CACHE = 256
GEMMA_270M = gemma3.Config(
    vocabulary=262144, width=640, layers=18, heads=4, kv_heads=1, head_dim=256, ffn_width=2048, norm_epsilon=1e-6,
    window=512,
)  # fmt: skip
GEMMA_1B = gemma3.Config(
    vocabulary=262144, width=1152, layers=26, heads=4, kv_heads=1, head_dim=256, ffn_width=6912, norm_epsilon=1e-6,
    window=512,
)  # fmt: skip
TINY = gemma3.Config(
    vocabulary=32768, width=64, layers=2, heads=2, kv_heads=1, head_dim=32, ffn_width=128, norm_epsilon=1e-6, window=64,
)  # fmt: skip
MODELS = (
    ("Gemma 3 270M's shape", GEMMA_270M, 1), ("Gemma 3 1B's shape", GEMMA_1B, 1),
    ("Gemma 3 270M's shape", GEMMA_270M, 8), ("Gemma 3 1B's shape", GEMMA_1B, 8),
)  # fmt: skip
QUICK = (("A tiny model", TINY, 1),)


def steps(clock: Clock, quick: bool) -> Iterator[dict[str, Any]]:
    """One table a model and batch."""
    for name, config, batch in QUICK if quick else MODELS:
        title = f"{name}, bfloat16, batch {batch}: the whole greedy step"
        if clock.is_over():
            yield {"title": title, "dense_bytes": 0, "rows": [], "note": "left out: no time was left"}
            continue
        yield _table(title, config, batch, clock)


def _table(title: str, config: gemma3.Config, batch: int, clock: Clock) -> dict[str, Any]:
    params = random_params(config)
    table = Table(title, sum(leaf.nbytes for leaf in jax.tree.leaves(params)), clock)
    head_bytes = params["embed"].nbytes
    for form, head in _heads(batch).items():
        table.add(form, "dense", lambda row, head=head: _dense_run(row, head, config, params, batch))
    for form, rule in list(RULES.items())[:3]:
        made = hire.transform(_written(config), hire.Config(rules=(rule,)))
        table.add(form, "hire", lambda row, made=made: _hire_run(row, made, config, params, batch, head_bytes, table))
    first, rule = next(iter(RULES.items()))
    if first in table.runs:
        planned = next(row.nbytes for row in table.rows if row.form == first)
        direct = hire.transform(_written(config), hire.Config(rules=(rule,)))
        table.add(
            f"{first}, called directly", "direct", lambda row: _direct(row, direct, config, params, batch), planned
        )
    table.measure()
    return table.to_dict()


def random_params(config: gemma3.Config) -> Any:
    """Weights of the usual size, made on the device."""
    c, query, key = config, config.heads * config.head_dim, config.kv_heads * config.head_dim
    matrices = {
        "q": (query, c.width), "k": (key, c.width), "v": (key, c.width), "o": (c.width, query),
        "gate": (c.ffn_width, c.width), "up": (c.ffn_width, c.width), "down": (c.width, c.ffn_width),
    }  # fmt: skip
    norms = dict.fromkeys(("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm"), c.width)
    norms |= dict.fromkeys(("q_norm", "k_norm"), c.head_dim)

    def matrix(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return (jax.random.normal(key, shape) * shape[1] ** -0.5).astype(jnp.bfloat16)

    def layer(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(matrices))
        made = {name: matrix(k, shape) for k, (name, shape) in zip(keys, matrices.items(), strict=True)}
        return made | {name: jnp.ones(size, jnp.bfloat16) for name, size in norms.items()}

    keys = jax.random.split(jax.random.key(0), c.layers + 1)
    embed = jax.jit(lambda k: matrix(k, (c.vocabulary, c.width)))(keys[-1])
    return {
        "embed": embed,
        "layers": [jax.jit(layer)(k) for k in keys[:-1]],
        "final_norm": jnp.ones(c.width, jnp.bfloat16),
    }


def _heads(batch: int) -> dict[str, Callable[[jax.Array, jax.Array], jax.Array] | None]:
    """Dense forms of the head, from (embed, x) to logits; None is the program as written."""
    contracted = (((1,), (1,)), ((), ()))
    forms: dict[str, Callable[[jax.Array, jax.Array], jax.Array] | None] = {
        "dense, as written": None,
        "dense, float32 result": lambda w, x: lax.dot_general(
            x, w, contracted, preferred_element_type=jnp.float32
        ).astype(x.dtype),
    }
    if batch == 1:
        forms["dense, multiplied and reduced"] = lambda w, x: jnp.sum(
            w.astype(jnp.float32) * x.astype(jnp.float32), axis=-1
        ).astype(x.dtype)[None]
    return forms


def _written(config: gemma3.Config) -> Any:
    return jax.jit(partial(gemma3.greedy_step, config), donate_argnums=2)


def _start(config: gemma3.Config, batch: int) -> tuple[jax.Array, Any]:
    return jnp.full((batch, 1), 7, jnp.int32), gemma3.init_cache(config, batch, CACHE, jnp.bfloat16)


def _decoding(step: Callable[..., Any], config: gemma3.Config, batch: int, *before: Any, after: Any = None) -> Run:
    """A call decodes one token, and the next call goes on from it."""
    state = list(_start(config, batch))

    def run() -> Any:
        token, state[1] = step(*before, *state) if after is None else step(*before, *state, after)
        state[0] = token[:, None]
        return token

    return run


def _dense_run(row: Row, head: Any, config: gemma3.Config, params: Any, batch: int) -> Run:
    def step(params: Any, tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        if head is None:
            return gemma3.greedy_step(config, params, tokens, cache)
        x, cache = gemma3.hidden_states(config, params, tokens, cache)
        return jnp.argmax(head(params["embed"], x[:, -1]), axis=-1).astype(jnp.int32), cache

    compiled = jax.jit(step, donate_argnums=2).lower(params, *_start(config, batch)).compile()
    row.kernels = kernels(compiled.as_text() or "")
    return _decoding(compiled, config, batch, params)


def _hire_run(
    row: Row, step: Any, config: gemma3.Config, params: Any, batch: int, head_bytes: int, table: Table
) -> Run | None:
    start = _start(config, batch)
    decision = next(d for d in step.report(params, *start).decisions if d.site.startswith("head"))
    if decision.action != "rewritten":
        row.note = f"left dense: {decision.reason}"
        return None
    row.nbytes, row.note = table.dense_bytes - head_bytes + decision.sparse_bytes, decision.exactness
    prepared = step.prepare(params, *start)
    outer = jax.jit(lambda p, t, c, q: step(p, t, c, prepared=q), donate_argnums=2)
    compiled = outer.lower(params, *start, prepared).compile()
    row.kernels = kernels(compiled.as_text() or "")
    return _decoding(compiled, config, batch, params, after=prepared)


def _direct(row: Row, step: Any, config: gemma3.Config, params: Any, batch: int) -> Run:
    run = _decoding(step, config, batch, params)
    for _ in range(32):
        run()
    row.proofs = held(step)
    return run
