"""Whether dense multiplies the input of a product as the author rounded it, and which NaN an argmax names.

XLA may keep more precision than a program asks for: a bfloat16 sum in front of a product is then multiplied as it was
before it was rounded. Weights cancel in pairs, so that such a rounding is a large part of every result. For every form,
the mean distance to the product of the rounded input over that to the product of the input that was not rounded: far
below 1 where it is rounded, far above where it is not. ``held`` is the share of results that are equal bit for bit to
those of an input behind a barrier, as what replaces a site reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

V, D = 2048, 64
BATCHES = (1, 2, 8)
Before = Callable[[jax.Array, jax.Array], jax.Array]
BEFORE: dict[str, Before] = {
    "a sum": lambda x, g: x + g,
    "a product": lambda x, g: x * g,
    "a norm": lambda x, g: x * lax.rsqrt(jnp.mean(x.astype(jnp.float32) ** 2, -1, keepdims=True)).astype(x.dtype) * g,
    "widened and back": lambda x, g: (x.astype(jnp.float32) * g.astype(jnp.float32)).astype(x.dtype),
    "a sum, a row of it": lambda x, g: jnp.stack([x, x + g], 1)[:, 1],
}
FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "x @ w.T": lambda x, w: x @ w.T,
    "x @ w": lambda x, w: x @ w,
    "rows first": lambda x, w: jnp.einsum("vd,bd->vb", w, x).T,
    "float32 result": lambda x, w: jnp.matmul(x, w.T, preferred_element_type=jnp.float32),
    "wide operands": lambda x, w: x.astype(jnp.float32) @ w.astype(jnp.float32).T,
}
NARROW = ("bfloat16", "float16")


def check(number: int, count: int, over: Callable[[], bool], quick: bool) -> Iterator[dict[str, Any]]:
    """Distances by type, form, batch and what makes the input; then places of NaN."""
    found: dict[str, Any] = {}
    cases = [(t, f, b, n) for t in NARROW for f in FORMS for b in BATCHES[: 1 if quick else 3] for n in BEFORE]
    for dtype, form, batch, before in cases[number::count]:
        if over():
            return
        try:
            found[f"{dtype} | {form} | {batch} | {before}"] = _rounding(dtype, form, batch, before)
        except Exception as error:
            found[f"{dtype} | {form} | {batch} | {before}"] = {"error": str(error)[:200]}
        yield {"roundings": found}
    yield {"roundings": found, "places": _places() if number == 0 else {}}


def _rounding(dtype: str, form: str, batch: int, before: str) -> dict[str, float]:
    rng = np.random.default_rng(len(form) + batch)
    half = rng.uniform(1, 2, (V, D // 2)) * rng.choice([-1, 1], (V, D // 2))
    w = jnp.asarray(np.repeat(half, 2, axis=1) * np.tile([1, -1], D // 2), dtype)
    x = jnp.asarray(np.repeat(rng.uniform(1, 2, (batch, D // 2)), 2, axis=1), dtype)
    g = jnp.asarray(1 + 0.01 * rng.uniform(size=D), dtype)
    stored = w.T if form == "x @ w" else w

    def step(x: jax.Array, g: jax.Array, w: jax.Array) -> jax.Array:
        return FORMS[form](BEFORE[before](x, g), w)

    def held(x: jax.Array, g: jax.Array, w: jax.Array) -> jax.Array:
        return FORMS[form](lax.optimization_barrier(BEFORE[before](x, g)), w)

    got, twin = (np.asarray(jax.jit(f)(x, g, stored).astype(jnp.float32), np.float64) for f in (step, held))
    wide = np.asarray(BEFORE[before](x.astype(jnp.float32), g.astype(jnp.float32)), np.float64)
    rounded = np.asarray(jax.jit(BEFORE[before])(x, g).astype(jnp.float32), np.float64)
    truth = np.asarray(w.astype(jnp.float32), np.float64).T
    near = [np.abs(got - made @ truth).mean() + 1e-30 for made in (rounded, wide)]
    return {"ratio": near[0] / near[1], "held": float((got == twin).mean())}


def _places() -> dict[str, Any]:
    """Which place an argmax names where all numbers are NaN, and where every second one is."""
    found = {}
    for name, start in (("all", 0), ("every second", 1)):
        z = np.zeros((4, V), np.float32)
        z[:, start :: 1 + start] = np.nan
        found[name] = np.asarray(jax.jit(lambda z: jnp.argmax(z, -1))(z)).tolist()
        found[f"{name}, with their sum"] = np.asarray(jax.jit(lambda z: jnp.argmax(z + z.sum(), -1))(z)).tolist()
    return found


def summary(workers: list[dict[str, Any]]) -> str:
    """A line for each type, form and batch, by what makes the input: ratio and share equal to the held twin."""
    found = {key: value for worker in workers for key, value in worker.get("roundings", {}).items()}
    lines = []
    for key in sorted({key.rpartition(" | ")[0] for key in found}):
        cells = []
        for before in BEFORE:
            one = found.get(f"{key} | {before}", {})
            cells.append(f"{before} {one['ratio']:.2g}/{one['held']:.0%}" if "ratio" in one else f"{before} -")
        lines.append(f"{key}: " + ", ".join(cells))
    return "\n".join([*lines, *(str(worker["places"]) for worker in workers if worker.get("places"))])
