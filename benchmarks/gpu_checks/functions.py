"""How far the platform's elementwise functions are from the real numbers, over *all* numbers of a type.

In units of 2⁻²³ of the result for float32, as in the table of hire_compiler/proofs/enclosure.py, and in units of the
type's own epsilon for narrow types. The truth is the same function in float64 on the same device, itself compared with
NumPy and SciPy on a sample. Results below the smallest normal number are looked at apart: whether they are flushed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import lax

from hire_compiler.proofs.enclosure import CPU_UNITS

Fn = Callable[..., jax.Array]
CHUNK = 1 << 26
TINY = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
UNARY: dict[str, tuple[Fn, Callable[[np.ndarray], np.ndarray]]] = {
    "exponential": (lax.exp, np.exp),
    "tanh": (lax.tanh, np.tanh),
    "logistic": (lax.logistic, scipy.special.expit),
    "log": (lax.log, np.log),
    "log_plus_one": (lax.log1p, np.log1p),
    "exponential_minus_one": (lax.expm1, np.expm1),
    "chlo.erf": (lax.erf, scipy.special.erf),
    "chlo.erfc": (lax.erfc, scipy.special.erfc),
    "sqrt": (lax.sqrt, np.sqrt),
    "rsqrt": (lax.rsqrt, lambda x: 1 / np.sqrt(x)),
    "cbrt": (lax.cbrt, np.cbrt),
    "chlo.square": (lax.square, np.square),
}
BINARY: dict[str, Fn] = {
    "divide": lax.div, "power": lax.pow, "add": lax.add, "subtract": lax.sub, "multiply": lax.mul,
    "divide by 30": lambda x, y: x / jnp.asarray(30, x.dtype),
    "multiply, then add": lambda x, y: x * y + x,
}  # fmt: skip


def check(number: int, count: int, over: Callable[[], bool], quick: bool) -> Iterator[dict[str, Any]]:
    """Worst errors by function and type."""
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16", "float16"):
        for name, (function, reference) in list(UNARY.items())[number::count]:
            if over():
                return
            try:
                found[f"{name} {dtype}"] = _unary(function, reference, dtype, quick)
            except Exception as error:
                found[f"{name} {dtype}"] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
            yield {"functions": found}
    for name, dtype in itertools.product(list(BINARY)[number::count], EPS):
        if over():
            return
        try:
            found[f"{name} {dtype}"] = _binary(name, BINARY[name], dtype, quick)
        except Exception as error:
            found[f"{name} {dtype}"] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        yield {"functions": found}


def _numbers(dtype: str, start: jax.Array, size: int, stride: int) -> jax.Array:
    """Numbers by their bits, so many from the ``start``-th on."""
    at = start + jnp.arange(size, dtype=jnp.int64) * stride
    if dtype == "float32":
        return lax.bitcast_convert_type(at.astype(jnp.uint32), jnp.float32)
    return lax.bitcast_convert_type(at.astype(jnp.uint16), jnp.dtype(dtype))


@functools.cache
def _numbers_of(dtype: str, size: int, stride: int) -> Any:
    return jax.jit(lambda start: _numbers(dtype, start, size, stride))


@functools.cache
def _worst_of(dtype: str) -> Any:
    return jax.jit(lambda x, y, truth: _worst(x, y, truth, dtype))


def _unary(function: Fn, reference: Any, dtype: str, quick: bool) -> dict[str, Any]:
    total = 1 << (32 if dtype == "float32" else 16)
    stride = 4099 if quick and dtype == "float32" else 1
    size = min(CHUNK, total // stride)
    # The narrow function is a program of its own, so that nothing is fused into it or widened.
    narrow, truth_of = jax.jit(function), jax.jit(lambda x: function(x.astype(jnp.float64)))
    worst = {
        "units": 0.0,
        "at": 0.0,
        "below_normal": 0.0,
        "subnormal_inputs": 0.0,
        "not_finite": 0,
        "falls": 0,
        "count": 0,
    }
    for start in range(0, total, size * stride):
        x = _numbers_of(dtype, size, stride)(jnp.int64(start))
        part = {key: float(value) for key, value in jax.device_get(_worst_of(dtype)(x, narrow(x), truth_of(x))).items()}
        if part["units"] > worst["units"]:
            worst["units"], worst["at"] = part["units"], part["at"]
        for key in ("below_normal", "subnormal_inputs"):
            worst[key] = max(worst[key], part[key])
        for key in ("not_finite", "falls", "count"):
            worst[key] += int(part[key])
    if dtype == "float32":
        worst["truth"] = _off_truth(truth_of, reference)
    return worst


def _off_truth(truth_of: Any, reference: Callable[[np.ndarray], np.ndarray]) -> float:
    """The worst relative difference between the device's float64 and the CPU's, on every 65521st number."""
    some = np.arange(0, 1 << 32, 65521, dtype=np.uint32).view(np.float32)
    some = some[np.isfinite(some) & (np.abs(some) >= TINY["float32"])]
    with np.errstate(all="ignore"):
        wide, known = np.asarray(truth_of(jnp.asarray(some))), reference(some.astype(np.float64))
        usual = np.isfinite(known) & (np.abs(known) > TINY["float32"])
        return float(np.max(np.abs(wide - known)[usual] / np.abs(known[usual]), initial=0))


def _worst(x: jax.Array, y: jax.Array, truth: jax.Array, dtype: str) -> dict[str, jax.Array]:
    got, wide = y.astype(jnp.float64), x.astype(jnp.float64)
    top = float(jnp.finfo(dtype).max)
    input_normal = (jnp.abs(wide) >= TINY[dtype]) | (wide == 0)
    usual = jnp.isfinite(wide) & input_normal & (jnp.abs(truth) >= TINY[dtype]) & (jnp.abs(truth) <= top)
    error = jnp.where(usual & jnp.isfinite(got), jnp.abs(got - truth) / jnp.abs(truth), 0) / EPS[dtype]
    at = jnp.argmax(error)
    small = jnp.isfinite(wide) & input_normal & (jnp.abs(truth) < TINY[dtype])
    tiny = ~input_normal & (jnp.abs(truth) >= TINY[dtype]) & (jnp.abs(truth) <= top)
    off = jnp.where(tiny, jnp.abs(got - truth) / jnp.abs(truth), 0)
    lost = jnp.where(small, jnp.abs(got - truth), 0) / TINY[dtype]
    follow = usual[1:] & usual[:-1] & ((wide[1:] > wide[:-1]) == (truth[1:] > truth[:-1])) & (truth[1:] != truth[:-1])
    against = follow & ((got[1:] > got[:-1]) != (truth[1:] > truth[:-1])) & (got[1:] != got[:-1])
    return {
        "units": error[at], "at": wide[at], "below_normal": jnp.max(lost), "falls": jnp.sum(against),
        "subnormal_inputs": jnp.max(off),
        "not_finite": jnp.sum(usual & ~jnp.isfinite(got)), "count": jnp.sum(usual),
    }  # fmt: skip


def _binary(name: str, function: Fn, dtype: str, quick: bool) -> dict[str, Any]:
    size = 1 << (16 if quick else 24)
    keys = jax.random.split(jax.random.key(len(name)), 5)
    span = 3.0 if dtype == "float16" else 40.0
    x = jnp.exp2(jax.random.uniform(keys[0], (size,), minval=-span, maxval=span, dtype=jnp.float32))
    y = jnp.exp2(jax.random.uniform(keys[1], (size,), minval=-span, maxval=span, dtype=jnp.float32))
    if name == "power":  # exponents such that half of the results are in range
        y = jnp.log(3e4 if dtype == "float16" else 1e30) / jnp.maximum(jnp.abs(jnp.log(x)), 1e-6)
        y = jnp.clip(y * jax.random.uniform(keys[2], (size,), minval=-1.0), -1e4, 1e4).astype(jnp.float32)
    elif name in ("add", "subtract", "multiply, then add"):  # of like size, so that some cancel
        y = x * jax.random.uniform(keys[2], (size,), minval=-2.0, maxval=2.0, dtype=jnp.float32)
    x, y = x.astype(dtype), y.astype(dtype)
    wide = jax.jit(function)(x.astype(jnp.float64), y.astype(jnp.float64))
    if name == "multiply, then add":  # relative to the terms: the sum may cancel
        wide_of = jnp.abs(x.astype(jnp.float64) * y.astype(jnp.float64)) + jnp.abs(x.astype(jnp.float64))
        got = jax.jit(function)(x, y).astype(jnp.float64)
        return {"units": float(jnp.max(jnp.where(wide_of < 1e30, jnp.abs(got - wide) / wide_of, 0)) / EPS[dtype])}
    found = _worst_of(dtype)(x, jax.jit(function)(x, y), wide)
    return {key: float(found[key]) for key in ("units", "at", "not_finite", "count", "below_normal")}


def summary(workers: list[dict[str, Any]]) -> str:
    """A table that can become the units of this platform."""
    found = {key: value for worker in workers for key, value in worker.get("functions", {}).items()}
    names = dict.fromkeys(name.rsplit(" ", 1)[0] for name in found)
    lines = [
        "function: float32 units (CPU allows) at x, falls, loss of small results / tiny, of subnormal inputs; "
        "bfloat16, float16 eps; float64 ok to"
    ]
    for name in names:
        wide, *narrow = (found.get(f"{name} {dtype}", {}) for dtype in EPS)
        if "error" in wide:
            lines.append(f"  {name}: {wide['error'][:120]}")
            continue
        allowed = f" ({CPU_UNITS[name]:g})" if name in CPU_UNITS else ""
        text = f"  {name}: {wide.get('units', float('nan')):.3f}{allowed} at {wide.get('at', 0):.6g}"
        if "falls" in wide:
            text += f", falls {wide['falls']}/{wide['count']}"
        text += f", small {wide.get('below_normal', 0):.2f}, subnormal {wide.get('subnormal_inputs', 0):.1g}"
        text += f", not finite {wide.get('not_finite', 0):g};"
        text += "".join(f" {n.get('units', float('nan')):.3f}" for n in narrow)
        lines.append(text + (f"; {wide['truth']:.0e}" if "truth" in wide else ""))
    return "\n".join(lines)
