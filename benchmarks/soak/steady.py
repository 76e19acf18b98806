"""Many calls, many sets of weights, many functions, in one process: latency and memory have to stay where they are."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxlib.mlir import ir

import hire_compiler as hire
from benchmarks.soak.model import CONFIG, arguments, parameters, resident_mb, same, step

Track = Callable[[Iterable[int], str], Iterable[int]]
Result = dict[str, Any]


def many_calls(count: int, track: Track) -> Result:
    """The same step, with the token fed back: seconds of every call, memory at every hundredth.

    The first call, which compiles, is not counted.
    """
    params, (token, x) = parameters(0), arguments(0)
    rewritten, dense = hire.transform(jax.jit(step), CONFIG), jax.jit(step)
    seconds, memory, wrong = np.zeros(count), [], 0
    rewritten(params, token, x)  # compiles
    for i in track(range(count), "calls"):
        began = time.perf_counter()
        new, state = rewritten(params, token, x)
        new.block_until_ready()
        seconds[i] = time.perf_counter() - began
        if i % 100 == 0:
            memory.append(resident_mb())
            wrong += not same((new, state), dense(params, token, x))
        token, x = new, jnp.tanh(state)
    parts = np.array_split(seconds, 50)
    late, early = (
        float(np.median(seconds[part])) for part in (slice(-count // 4, None), slice(count // 8, count // 3))
    )
    return {
        "calls": count, "median_ms": [float(np.median(part)) * 1e3 for part in parts],
        "p99_ms": [float(np.quantile(part, 0.99)) * 1e3 for part in parts], "memory_mb": memory,
        "latency_drift": late / early - 1, "memory_growth_mb": _growth(memory), "compared": len(memory), "wrong": wrong,
    }  # fmt: skip


def many_weights(count: int, track: Track) -> Result:
    """A new set of weights every time: prepared anew, and let go of."""
    rewritten, dense = hire.transform(jax.jit(step), CONFIG), jax.jit(step)
    token, x = arguments(0)
    memory, dying, wrong = [], [], 0
    for i in track(range(count), "sets of weights"):
        params = parameters(i)
        wrong += not same(rewritten(params, token, x), dense(params, token, x))
        prepared = jax.tree.leaves(rewritten.prepare(params, token, x))
        dying += [weakref.ref(array) for array in (*params.values(), *prepared)]
        del params, prepared
        memory.append(resident_mb())
    gc.collect()
    alive = sum(ref() is not None for ref in dying)
    return {
        "sets": count,
        "memory_mb": memory,
        "memory_growth_mb": _growth(memory),
        "arrays_alive": alive,
        "wrong": wrong,
    }


def many_functions(count: int, track: Track) -> Result:
    """New functions, transformed and forgotten: no context, module or function may stay behind."""
    params, (token, x) = parameters(0), arguments(0)
    memory, dying, contexts = [], [], []
    for i in track(range(count), "transforms"):
        dying += _one_function(float(i), params, token, x)
        gc.collect()
        contexts.append(_live_contexts())
        memory.append(resident_mb())
    jax.clear_caches()
    gc.collect()
    alive = sum(ref() is not None for ref in dying)
    return {
        "transforms": count, "memory_mb": memory, "memory_growth_mb": _growth(memory), "alive": alive,
        "contexts": contexts, "contexts_growth": contexts[-1] - contexts[min(5, count - 1)],
    }  # fmt: skip


def _one_function(shift: float, params: Any, token: jax.Array, x: jax.Array) -> list[weakref.ref[Any]]:
    def shifted(params: Any, token: jax.Array, x: jax.Array) -> Any:
        return step(params, token, x + shift)

    rewritten = hire.transform(jax.jit(shifted), CONFIG)
    rewritten(params, token, x)
    return [weakref.ref(rewritten), weakref.ref(shifted)]


def _live_contexts() -> int:
    """Contexts of MLIR that are alive; −1 where this jaxlib does not count them."""
    count = getattr(ir.Context, "_get_live_count", None)
    return int(count()) if count is not None else -1


def _growth(memory: list[float]) -> float:
    """What the second half holds more than the first quarter's end, by medians: megabytes."""
    quarter = max(len(memory) // 4, 1)
    return float(np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter]))
