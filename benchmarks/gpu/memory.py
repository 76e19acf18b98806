"""The card's own figures: how fast it copies and reads its memory, and what a call costs that does nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.measure import timed


def memory(quick: bool) -> dict[str, Any]:
    """Bytes a second of a copy (read and written), of a sum (read), and microseconds of an empty call."""
    size = (1 << 22) if quick else (1 << 29)
    array = jax.random.normal(jax.random.key(0), (size,), jnp.float32)
    little = jnp.ones(8)
    copy, total, nothing = (
        jax.jit(f).lower(a).compile()
        for f, a in ((lambda a: a + 1, array), (jnp.sum, array), (lambda a: a + 1, little))
    )
    found = timed({"copy": lambda: copy(array), "sum": lambda: total(array), "an empty call": lambda: nothing(little)})
    return {
        "copy_bytes_per_second": 2 * array.nbytes / (found["copy"][0] * 1e-6),
        "read_bytes_per_second": array.nbytes / (found["sum"][0] * 1e-6),
        "empty_call_us": {"chained": found["an empty call"][0], "one by one": found["an empty call"][2]},
    }
