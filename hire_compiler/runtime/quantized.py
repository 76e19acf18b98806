"""HiRE-Q: integer copies of a weight, and scores from them.

An 8-bit copy has one scale per row. A 4-bit copy has one per row and block of columns; it is kept packed, two numbers a
byte, *block by block*: byte ``[p, i, c]`` holds column ``c`` of row ``i`` in block ``p`` (low half) and in block
``p + pairs`` (high half). So either half of a block is one contiguous matrix-vector product whose operand is unpacked
on the way to the multiplication, and the scale of the block is applied once, to its result.

A 6-bit copy has one scale per row. Four numbers share three bytes: the columns are cut into quarters, byte
``[p, i, c]`` holds column ``c`` of quarter ``p`` in its low six bits, and above them two bits of that of the last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.record import Arrays, Record
from hire_compiler.runtime.target import Target, dot_of_few, load, own_rows_dot, take_rows

_ZERO = 8  # what a packed 0 is stored as


def prepare_quantized(rows: jax.Array) -> Arrays:
    """An int8 copy with one scale per row.

    Args:
      rows: ``[n, d]``, any float type.

    Returns:
      ``q`` int8 ``[n, d]`` and ``scale`` float32 ``[n]``, with ``rows ≈ q · scale``. An all-zero row has
      scale 0.
    """
    wide = rows.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=1) / 127
    q = jnp.clip(jnp.round(wide * _inverse(scale)[:, None]), -127, 127).astype(jnp.int8)
    return {"q": q, "scale": scale}


def quantized_scores(x: jax.Array, prepared: Arrays, target: Target, *, precise: bool = False) -> jax.Array:
    """``[b, n]`` float32 from ``x [b, d]`` and what :func:`prepare_quantized` made.

    Args:
      precise: for a proof: no input is rounded on the way. Any matrix unit takes bfloat16 and int8 as they are.
    """
    wide = x.astype(jnp.float32)
    return dot_of_few(wide, prepared["q"], target, precise=precise and x.dtype != jnp.bfloat16) * prepared["scale"]


def prepare_int4(rows: jax.Array, columns: int) -> Arrays:
    """A packed 4-bit copy with one scale per row and block of ``columns`` columns.

    Args:
      rows: ``[n, d]``, any float type; ``columns`` divides d.

    Returns:
      ``q4`` uint8 ``[pairs, n, columns]`` and ``scale4`` bfloat16 ``[2 · pairs, n]``; an odd number of blocks is filled
      up with a block of zeros.
    """
    n, d = rows.shape
    blocks = d // columns
    wide = rows.astype(jnp.float32).reshape(n, blocks, columns).transpose(1, 0, 2)
    wide = jnp.pad(wide, ((0, blocks % 2), (0, 0), (0, 0)))
    # The copy is made for the scale as it is stored, so that rounding the scale costs nothing but range. XLA may drop a
    # conversion to bfloat16 and back, and keeps this.
    scale = lax.reduce_precision(jnp.max(jnp.abs(wide), axis=2) / 7, exponent_bits=8, mantissa_bits=7)
    q = jnp.clip(jnp.round(wide * _inverse(scale)[..., None]), -7, 7) + _ZERO
    low, high = jnp.split(q.astype(jnp.uint8), 2)
    return {"q4": low | (high << 4), "scale4": scale.astype(jnp.bfloat16)}


def native_int4(prepared: Arrays, d: int) -> Arrays:
    """The same copy in a type of four bits, for a platform that has one: ``q4`` int4 ``[blocks, n, columns]``.

    The scales become float32, so that they need no conversion on the way to the product. No block is filled up.
    """
    blocks = d // prepared["q4"].shape[-1]
    q = jnp.concatenate([prepared["q4"] & 15, prepared["q4"] >> 4], axis=-3).astype(jnp.int8) - _ZERO
    scale = load(prepared["scale4"]).astype(jnp.float32)
    return {"q4": q.astype(jnp.int4)[..., :blocks, :, :], "scale4": scale[..., :blocks, :]}


def _native_scores(x: jax.Array, prepared: Arrays, target: Target) -> jax.Array:
    """One product, batched over the blocks; their scales are applied to its results."""
    q, scale = prepared["q4"], prepared["scale4"]
    blocks, _, columns = q.shape
    batch = x.shape[0]
    wide = jnp.pad(x.astype(jnp.float32), ((0, max(target.least_rows - batch, 0)), (0, 0)))
    parts = wide.reshape(-1, blocks, columns).transpose(1, 0, 2)
    products = lax.dot_general(parts, q.astype(jnp.float32), (((2,), (2,)), ((0,), (0,))))
    return jnp.sum(products * scale[:, None], axis=0)[:batch]


def int4_scores(x: jax.Array, prepared: Arrays, target: Target, *, precise: bool = False) -> jax.Array:
    """``[b, n]`` float32 from ``x [b, d]`` and what :func:`prepare_int4` (and :func:`native_int4`) made."""
    if prepared["q4"].dtype == jnp.int4:
        return _native_scores(x, prepared, target)
    packed, scale = prepared["q4"], load(prepared["scale4"]).astype(jnp.float32)
    pairs, n, columns = packed.shape
    batch, d = x.shape
    blocks = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 2 * pairs * columns - d))).reshape(batch, -1, columns)
    total = jnp.zeros((batch, n), jnp.float32)
    for half, unpack in enumerate((lambda byte: byte & 15, lambda byte: byte >> 4)):
        for pair in range(pairs):
            block = half * pairs + pair
            part = lax.optimization_barrier(blocks[:, block])
            # Two products of one fusion are not vectorised by XLA:CPU (30 times slower): keep them apart.
            product = lax.optimization_barrier(dot_of_few(part, packed[pair], target, unpack))
            total += (product - _ZERO * jnp.sum(part, axis=1, keepdims=True)) * scale[block]
    return total


def unpack_int4(prepared: Arrays, d: int) -> jax.Array:
    """The copy as float32 ``[n, d]``: what :func:`int4_scores` multiplies with."""
    packed, scale = prepared["q4"], load(prepared["scale4"]).astype(jnp.float32)
    q = jnp.concatenate([packed & 15, packed >> 4]).astype(jnp.float32) - _ZERO
    return (q * scale[..., None]).transpose(1, 0, 2).reshape(packed.shape[1], -1)[:, :d]


_MIDDLE = 32  # what a 6-bit 0 is stored as


def prepare_int6(rows: jax.Array) -> Arrays:
    """A packed 6-bit copy with one scale per row.

    Args:
      rows: ``[n, d]``, any float type.

    Returns:
      ``q6`` uint8 ``[3, n, ⌈d / 4⌉]`` and ``scale6`` float32 ``[n]``; columns are filled up with zeros to a multiple of
      four.
    """
    wide = rows.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=1) / 31
    q = jnp.clip(jnp.round(wide * _inverse(scale)[:, None]), -31, 31)
    q = jnp.pad(q, ((0, 0), (0, -q.shape[1] % 4))).astype(jnp.int8) + _MIDDLE
    *low, last = jnp.split(q.astype(jnp.uint8), 4, axis=1)
    return {"q6": jnp.stack([part | ((last >> (2 * i)) & 3) << 6 for i, part in enumerate(low)]), "scale6": scale}


def unpack_int6(packed: jax.Array) -> jax.Array:
    """The numbers of some rows, ``[3, n, ⌈d / 4⌉]`` packed, as float32 ``[n, 4 · ⌈d / 4⌉]``, their scales left out."""
    last = (packed[0] >> 6) | (packed[1] >> 6) << 2 | (packed[2] >> 6) << 4
    parts = [*(packed[i] & 63 for i in range(3)), last]
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=1) - _MIDDLE


def int6_scores(x: jax.Array, prepared: Arrays, target: Target, *, precise: bool = False) -> jax.Array:
    """``[b, n]`` float32 from ``x [b, d]`` and what :func:`prepare_int6` made.

    Every byte is read twice, for the number in its low bits and for its part of the fourth: unpacking all four at once
    on the way to one product is not vectorised by XLA:CPU (eight times slower than int8).
    """
    packed, scale = prepared["q6"], prepared["scale6"]
    quarter = packed.shape[2]
    wide = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 4 * quarter - x.shape[1])))
    *own, last = (lax.optimization_barrier(part) for part in jnp.split(wide, 4, axis=1))
    total = -_MIDDLE * jnp.sum(wide, axis=1, keepdims=True)
    for i, part in enumerate(own):
        for rows, unpack in ((part, lambda byte: byte & 63), (last * 4.0**i, lambda byte: byte >> 6)):
            # Two products of one fusion are not vectorised: keep them apart.
            total += lax.optimization_barrier(dot_of_few(rows, packed[i], target, unpack, precise=precise))
    return total * scale


def refine(x: jax.Array, prepared: Arrays, ids: jax.Array, target: Target) -> jax.Array:
    """The scores of rows ``ids [b, s]`` by the int8 copy alone: ``[b, s]`` float32."""
    flat = take_rows(prepared["scale"], ids.reshape(-1), target)
    return own_rows_dot(x, prepared["q"], ids, target) * flat.reshape(ids.shape)


def _inverse(scale: jax.Array) -> jax.Array:
    return jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)


def _int4_bytes(n: int, d: int, source: str, *, columns: int) -> int:
    blocks = d // columns
    return n * (blocks + blocks % 2) * (columns // 2 + 2)


def _int4_misfit(d: int, *, columns: int) -> str:
    if d % columns == 0:
        return ""
    near = [c for c in (16, 32, 48, 64, 80, 96, 128) if d % c == 0]
    return (
        f"columns {columns} of Quantized(bits=4, columns={columns}) do not divide the input width d = {d}; "
        f"use one of {near or [d]}"
    )


RECORDS = {
    "int8": Record(
        arrays=("q", "scale"),
        prepare=lambda rows, moment: prepare_quantized(rows),
        scores=quantized_scores,
        matrices=lambda arrays, d: (arrays["q"].astype(jnp.float32) * arrays["scale"][:, None],),
        stored_bytes=lambda n, d, source: n * (d + 4),
        refine=refine,
        by_rows=True,
    ),
    "int4": Record(
        arrays=("q4", "scale4"),
        prepare=lambda rows, moment, *, columns: prepare_int4(rows, columns),
        scores=int4_scores,
        matrices=lambda arrays, d: (unpack_int4(arrays, d),),
        stored_bytes=_int4_bytes,
        misfit=_int4_misfit,
        kept=lambda arrays, d, target: native_int4(arrays, d) if target.has_int4 else arrays,
        unpacks=True,
    ),
    "int6": Record(
        arrays=("q6", "scale6"),
        prepare=lambda rows, moment: prepare_int6(rows),
        scores=int6_scores,
        matrices=lambda arrays, d: (unpack_int6(arrays["q6"])[:, :d] * arrays["scale6"][:, None],),
        stored_bytes=lambda n, d, source: n * (3 * -(-d // 4) + 4),
        passes=2,
        by_rows=True,
    ),
}
