"""What a platform decides about the form of the same computation.

The CPU forms are measured, not guessed (docs/decisions.md): XLA:CPU fuses ``convert`` and ``gather`` into one
threaded loop only for ``transpose`` + ``dot_general(1, 0)``, and upcasts a whole bfloat16 array before it
gathers from it, so bfloat16 rows travel as ``uint16``. A TPU wants neither; it never inherits them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True)
class Target:
    """One platform.

    Attributes:
      platform: ``cpu``, ``gpu`` or ``tpu``.
      bf16_as_bits: gather bfloat16 rows as ``uint16`` and reinterpret after the gather.
      rows_one_by_one: score a small batch row by row, each a threaded fused matrix-vector product.
      gather_limit: bytes of gathered rows above which the second product of a block goes in chunks; a
        larger temporary leaves the cache (and above 32 MiB costs ten times as much).
    """

    platform: str
    bf16_as_bits: bool
    rows_one_by_one: bool
    gather_limit: int


_TARGETS = {
    "cpu": Target("cpu", bf16_as_bits=True, rows_one_by_one=True, gather_limit=4 << 20),
    "gpu": Target("gpu", bf16_as_bits=False, rows_one_by_one=False, gather_limit=1 << 62),
    "tpu": Target("tpu", bf16_as_bits=False, rows_one_by_one=False, gather_limit=1 << 62),
}


def target_for(platform: str) -> Target:
    """The target of a JAX platform name."""
    return _TARGETS.get({"cuda": "gpu", "rocm": "gpu"}.get(platform, platform), _TARGETS["gpu"])


def lowering_platform(platform: str) -> str:
    """The name under which JAX lowers for a platform: ``gpu`` means CUDA there."""
    return {"gpu": "cuda"}.get(platform, platform)


def store(matrix: jax.Array, target: Target) -> jax.Array:
    """The form in which a prepared matrix is kept: bfloat16 as ``uint16`` bits where the target wants it.

    Inside a loop XLA:CPU upcasts a bfloat16 stack as a whole and hoists it; bits it leaves alone.
    """
    return bits_of(matrix) if matrix.dtype == jnp.bfloat16 and target.bf16_as_bits else matrix


def bits_of(matrix: jax.Array) -> jax.Array:
    """A bfloat16 array as ``uint16``."""
    return lax.bitcast_convert_type(matrix, jnp.uint16)


def load(matrix: jax.Array) -> jax.Array:
    """Undo :func:`store` on what was read."""
    return lax.bitcast_convert_type(matrix, jnp.bfloat16) if matrix.dtype == jnp.uint16 else matrix


def take_rows(matrix: jax.Array, index: jax.Array, target: Target) -> jax.Array:
    """Gather blocks along the first axis: ``[n, …]`` and ``[k]`` to ``[k, …]``; indices must be in range."""
    return load(jnp.take(store(matrix, target), index, axis=0, mode="clip"))


def rows_dot(x: jax.Array, rows: jax.Array, *, precise: bool = False) -> jax.Array:
    """``x [b, d]`` times ``rows [n, d]`` transposed, summed in float32: ``[b, n]``."""
    wide = rows.astype(jnp.float32)
    precision = lax.Precision.HIGHEST if precise else None
    return lax.dot_general(x.astype(jnp.float32), wide.T, (((1,), (0,)), ((), ())), precision=precision)


def columns_dot(h: jax.Array, rows: jax.Array, *, precise: bool = False) -> jax.Array:
    """``h [b, n]`` times ``rows [n, d]``, summed in float32: ``[b, d]``."""
    precision = lax.Precision.HIGHEST if precise else None
    return jnp.dot(h.astype(jnp.float32), rows.astype(jnp.float32), precision=precision)


def for_each_row(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Apply a function of one-row arrays ``[1, …]`` to every row and stack the results ``[b, n]``.

    Written out for the few rows of a decode step; a loop for more.
    """
    batch = arrays[0].shape[0]
    if batch > 8:
        return lax.map(lambda rows: function(*(row[None] for row in rows))[0], arrays)
    results = [function(*(array[i : i + 1] for array in arrays)) for i in range(batch)]
    return jnp.concatenate(results, axis=0)
