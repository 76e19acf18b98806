"""How far matrix products are from the real numbers: random, cancelling, hostile to units that align and truncate.

A float32 sum of n products in any order is off by at most about n·u·Σ|a||b|, u = 2⁻²⁴ (the bound in
runtime/certify.py). Matrix units need not keep to it: they shift the terms of a block to the largest exponent and cut
off what falls below. For every form, the worst error in units of u·Σ|a||b| (to be compared with n), and in units of
2⁻¹¹·Σ|a||b|, where TF32 would show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

U = 2.0**-24
ROWS = 4096
LENGTHS = (2048, 640, 8192, 256)
BATCHES = (1, 8, 64)
Form = tuple[str, str, str, str | None, str]
# Types of both operands as stored, the type in which they are multiplied, precision, and type of the result.
FORMS: dict[str, Form] = {
    "float32, default": ("float32", "float32", "float32", None, "float32"),
    "float32, highest": ("float32", "float32", "float32", "highest", "float32"),
    "bfloat16 → float32": ("bfloat16", "bfloat16", "bfloat16", None, "float32"),
    "bfloat16 → bfloat16": ("bfloat16", "bfloat16", "bfloat16", None, "bfloat16"),
    "float16 → float32": ("float16", "float16", "float16", None, "float32"),
    "float16 → float16": ("float16", "float16", "float16", None, "float16"),
    "bfloat16 widened, default": ("bfloat16", "bfloat16", "float32", None, "float32"),
    "float32 × int8 widened, default": ("float32", "int8", "float32", None, "float32"),
    "float32 × int8 widened, highest": ("float32", "int8", "float32", "highest", "float32"),
    "bfloat16 × int8 widened, default": ("bfloat16", "int8", "float32", None, "float32"),
}


def check(number: int, count: int, over: Callable[[], bool], quick: bool) -> Iterator[dict[str, Any]]:
    """Worst errors by form, length, batch and kind of numbers."""
    found: dict[str, Any] = {}
    lengths, batches = ((64, 640), (1, 8)) if quick else (LENGTHS, BATCHES)
    for n in lengths:
        rows = {kind: make(np.random.default_rng(n), n) for kind, (make, _) in KINDS.items()}
        for batch in batches:
            inputs = {kind: make(np.random.default_rng([n, batch]), n, batch) for kind, (_, make) in KINDS.items()}
            for form, spec in list(FORMS.items())[number::count]:
                for layout in ("[V, d]", "[d, V]") if spec[1] != "int8" else ("[V, d]",):
                    if over():
                        return
                    key = f"{form} | {n} | {batch} | {layout}"
                    try:
                        product = _product(spec, layout)
                        for kind in KINDS:
                            found[f"{key} | {kind}"] = _error(product, spec, layout, inputs[kind], rows[kind])
                    except Exception as error:
                        found[f"{key} | -"] = {"error": str(error)[:200]}
            yield {"products": found}


def _product(spec: Form, layout: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    _, _, multiplied, precision, result = spec

    def product(x: jax.Array, w: jax.Array) -> jax.Array:
        over = (((1,), (1 if layout == "[V, d]" else 0,)), ((), ()))
        asked = lax.Precision.HIGHEST if precision else None
        x, w = x.astype(multiplied), w.astype(multiplied)
        return lax.dot_general(x, w, over, precision=asked, preferred_element_type=jnp.dtype(result))

    return jax.jit(product)


def _error(product: Any, spec: Form, layout: str, inputs: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    x, w = _cast(inputs, spec[0]), _cast(rows, spec[1])
    stored = w if layout == "[V, d]" else w.T
    got = product(x, stored)
    exact, size = _truth(x, w)
    wide = got.astype(jnp.float64)
    # A narrow result is rounded once more, by half a step; what is beyond that is the sum's.
    stored = 0.0 if spec[4] == "float32" else jnp.finfo(spec[4]).eps / 2 * jnp.maximum(jnp.abs(wide), jnp.abs(exact))
    error = jnp.maximum(jnp.abs(wide - exact) - stored, 0) / jnp.where(size > 0, size, 1)
    at = int(jnp.argmax(error))
    return {"units": float(error.ravel()[at]) / U, "tf32": float(error.ravel()[at]) * 2**11}


@jax.jit
def _truth(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = x.astype(jnp.float64), w.astype(jnp.float64)
    return a @ b.T, jnp.abs(a) @ jnp.abs(b).T


def _cast(array: np.ndarray, dtype: str) -> jax.Array:
    if dtype == "int8":
        largest = np.abs(array).max(axis=1, keepdims=True)
        return jnp.asarray(np.round(array / np.where(largest > 0, largest, 1) * 127), jnp.int8)
    return jnp.asarray(array.astype(np.float32)).astype(dtype)


# ------------------------------------------------------------------------------ numbers: rows [ROWS, n], x [batch, n]


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((ROWS, n), np.float32)


def _normal_x(rng: np.random.Generator, n: int, batch: int) -> np.ndarray:
    return rng.standard_normal((batch, n), np.float32)


def _cancelling(rng: np.random.Generator, n: int) -> np.ndarray:
    """Every term twice, with both signs, and the pairs far apart; a little is left over."""
    half = rng.standard_normal((ROWS, n // 2), np.float32)
    w = np.concatenate([half, -half[:, ::-1]], axis=1)
    w[:, n // 4] += 1e-2
    return w


def _mirrored_x(rng: np.random.Generator, n: int, batch: int) -> np.ndarray:
    x = rng.standard_normal((batch, n // 2), np.float32)
    return np.concatenate([x, x[:, ::-1]], axis=1)


def _dropped(rng: np.random.Generator, n: int) -> np.ndarray:
    """One large term, and small ones just below what a sum can hold: 2⁻ᵏ(1 − 2⁻⁷) of it, k = 18 … 27.

    The small ones of one sign, the other, or both; the large one first, last, in the middle, or one in 16 terms.
    """
    r = np.arange(ROWS)
    signs = rng.choice(np.float32([-1, 1]), (ROWS, n))
    signs[r // 10 % 3 == 0], signs[r // 10 % 3 == 1] = 1, -1
    w = signs * (2.0 ** (9.0 - 18 - r % 10) * (1 - 2.0**-7)).astype(np.float32)[:, None]
    for place, at in enumerate((0, n - 1, n // 2, slice(0, n, 16))):
        w[r // 30 % 4 == place, at] = 512.0
    return w


def _returning(rng: np.random.Generator, n: int) -> np.ndarray:
    """The same, and the large term is taken back at the end: only the small ones remain."""
    w = _dropped(rng, n)
    w[:, 0], w[:, n - 1] = 512.0, -512.0
    return w


def _constant_x(rng: np.random.Generator, n: int, batch: int) -> np.ndarray:
    return np.full((batch, n), 2.0**-9, np.float32) * rng.choice(np.float32([1, 1, 2]), (batch, 1))


KINDS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "random": (_normal, _normal_x),
    "positive": (
        lambda rng, n: 1 + np.abs(_normal(rng, n)),
        lambda rng, n, batch: 1 + np.abs(_normal_x(rng, n, batch)),
    ),
    "cancelling": (_cancelling, _mirrored_x),
    "dropped": (_dropped, _constant_x),
    "returning": (_returning, _constant_x),
    "ranges": (
        lambda rng, n: _normal(rng, n) * np.exp2(rng.integers(-7, 8, (ROWS, n)), dtype=np.float32),
        lambda rng, n, batch: _normal_x(rng, n, batch) * np.exp2(rng.integers(-6, 7, (batch, n)), dtype=np.float32),
    ),
    # Inputs between numbers of TF32, so that rounding an operand shows.
    "between": (
        lambda rng, n: rng.choice(np.float32([-1, 1]), (ROWS, n)),
        lambda rng, n, batch: (1 + 2.0**-11 * rng.uniform(-1, 1, (batch, n))).astype(np.float32),
    ),
}


def summary(workers: list[dict[str, Any]]) -> str:
    """Of every form: the worst of all, against n, and of every kind of numbers."""
    found = {key: value for worker in workers for key, value in worker.get("products", {}).items()}
    worst: dict[str, dict[str, tuple[float, str]]] = {}
    errors = []
    for key, value in found.items():
        form, n, batch, layout, kind = key.split(" | ")
        if "error" in value:
            errors.append(f"  {key}: {value['error'][:100]}")
            continue
        share = value["units"] / float(n)
        if share >= worst.setdefault(form, {}).get(kind, (-1.0, ""))[0]:
            worst[form][kind] = (share, f"n={n} b={batch} {layout}: {value['units']:.3g}u, {value['tf32']:.2g} tf32")
    lines = [
        f"{len(found)} products; worst error / (n·u·Σ|a||b|) by kind of numbers (above 1: the model does not cover it)"
    ]
    for form, kinds in worst.items():
        share, where = max(kinds.values())
        lines.append(f"  {form}: {share:.3g} ({where}); " + ", ".join(f"{k} {v[0]:.2g}" for k, v in kinds.items()))
    return "\n".join(lines + errors[:5])
