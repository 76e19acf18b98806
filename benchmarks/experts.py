"""A Mixtral-shaped layer of experts through ``transform``, by default, against every dense form of it.

python -m benchmarks.experts [--experts 8] [--routed 2] [--d 1024] [--width 3584] [--batches 1,4] [--dtype float32]

Dense computes every expert and multiplies by weights of which all but the routed ones are zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hire_compiler as hire
from benchmarks.timing import interleaved, median_ms, print_table

Params = dict[str, jax.Array]


def routed(params: Params, x: jax.Array, k: int) -> jax.Array:
    """The router's weights, zero but for the best k experts of each row: ``[b, e]``."""
    best, chosen = lax.top_k(jax.nn.softmax((x @ params["router"]).astype(jnp.float32)), k)
    weights = jnp.zeros((len(x), params["router"].shape[1])).at[jnp.arange(len(x))[:, None], chosen]
    return weights.set(best / best.sum(-1, keepdims=True)).astype(x.dtype)


def as_written(params: Params, x: jax.Array, k: int) -> jax.Array:
    """The dense einsum over all experts."""
    gate, up = (jnp.einsum("bd,edf->bef", x, params[name]) for name in ("gate", "up"))
    y = jnp.einsum("bef,efd->bed", jax.nn.silu(gate) * up, params["down"])
    return jnp.einsum("bed,be->bd", y, routed(params, x, k))


def batched(params: Params, x: jax.Array, k: int) -> jax.Array:
    """The same as products batched over experts, which do not move the weights."""
    all_rows = jnp.broadcast_to(x, (params["up"].shape[0], *x.shape))
    h = jax.nn.silu(jnp.matmul(all_rows, params["gate"])) * jnp.matmul(all_rows, params["up"])
    return jnp.einsum("ebd,be->bd", jnp.matmul(h, params["down"]), routed(params, x, k))


def in_pieces(params: Params, x: jax.Array, k: int, size: int = 128) -> jax.Array:
    """One expert after the other, their weights in pieces that stay in the cache."""

    def product(x: jax.Array, name: str, expert: jax.Array) -> jax.Array:
        _, rows, width = params[name].shape

        def piece(i: jax.Array, total: jax.Array) -> jax.Array:
            part = lax.dynamic_slice(params[name], (expert, i * size, 0), (1, size, width))[0]
            return total + lax.dynamic_slice_in_dim(x, i * size, size, 1) @ part

        return lax.fori_loop(0, rows // size, piece, jnp.zeros((len(x), width), x.dtype))

    weights = routed(params, x, k)

    def one(expert: jax.Array, total: jax.Array) -> jax.Array:
        h = jax.nn.silu(product(x, "gate", expert)) * product(x, "up", expert)
        return total + weights[:, expert, None] * product(h, "down", expert)

    return lax.fori_loop(0, params["up"].shape[0], one, jnp.zeros_like(x))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--routed", type=int, default=2)
    parser.add_argument("--d", type=int, default=1024)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.experts, options.d, options.width)
    shapes = {"gate": shape, "up": shape, "down": (shape[0], shape[2], shape[1]), "router": (options.d, shape[0])}
    params = {
        name: jnp.asarray(rng.standard_normal(s, np.float32) / s[-2] ** 0.5, options.dtype)
        for name, s in shapes.items()
    }
    for batch in map(int, options.batches.split(",")):
        x = jnp.asarray(rng.standard_normal((batch, options.d), np.float32), options.dtype)
        _compare(params, x, options.routed, options.rounds)


def _compare(params: Params, x: jax.Array, k: int, rounds: int) -> None:
    forms: dict[str, Callable[[Params, jax.Array, int], jax.Array]] = {
        "as written": as_written, "batched over experts": batched, "in pieces": in_pieces,
    }  # fmt: skip
    runs: dict[str, Callable[[], Any]] = {}
    for name, form in forms.items():
        compiled = jax.jit(form, static_argnums=2)
        runs[name] = lambda compiled=compiled: compiled(params, x, k)
    step = hire.transform(jax.jit(lambda params, x: as_written(params, x, k)))
    runs["hire, by default"] = lambda: step(params, x)
    got, wanted = (np.asarray(runs[name](), np.float32) for name in ("hire, by default", "as written"))
    used = int((np.asarray(routed(params, x, k)) != 0).any(axis=0).sum())
    times = interleaved(runs, rounds)
    medians = {name: median_ms(times[name]) for name in runs}
    best = min(ms for name, ms in medians.items() if name in forms)
    off = np.abs(got - wanted).max() / np.abs(wanted).max()
    written = medians["as written"]
    print_table(
        f"batch {len(x)}: {used} of {params['up'].shape[0]} experts used, off by {off:.0e} at most",
        ["form", "ms", "over as written", "over best dense"],
        [[name, f"{ms:.1f}", f"{written / ms:.2f}", f"{best / ms:.2f}"] for name, ms in medians.items()],
    )


if __name__ == "__main__":
    main()
