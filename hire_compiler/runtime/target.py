"""What a platform decides about the form of the same computation.

The CPU forms are measured, not guessed (docs/decisions): XLA:CPU fuses ``convert`` and ``gather`` into one
threaded loop only for ``transpose`` + ``dot_general(1, 0)``, and upcasts a whole bfloat16 array before it
gathers from it, so bfloat16 rows travel as ``uint16``. A TPU wants neither; it never inherits them. The TPU forms are
those that its compiler estimates to be best (docs/tpu.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.errors import ConfigError
from hire_compiler.runtime.costs import CPU_COSTS, GPU_COSTS, TPU_COSTS, Costs


@dataclass(frozen=True)
class Target:
    """One platform.

    Attributes:
      platform: what it is called here: ``cpu``, ``gpu`` or ``tpu``.
      names: what JAX calls it; a step is lowered under the first.
      bf16_as_bits: gather bfloat16 rows as ``uint16`` and reinterpret after the gather.
      rows_one_by_one: score a small batch row by row, each a threaded fused matrix-vector product.
      least_rows: products take at least so many rows, of zeros if need be: a TPU runs a product of one row on its
        vector unit, at a fraction of the speed of the matrix unit.
      rounds_operands: a product of float32 rounds its operands to bfloat16 unless asked not to, so that factors which
        only go into such products are kept as bfloat16.
      has_int4: keeps and reads arrays of four-bit numbers; elsewhere two share a byte and are unpacked.
      chunk_bytes: of a larger batch: bytes of a chunk of a narrow copy, converted to float32 and multiplied while it
        is in the cache.
      piece_bytes: of a larger matrix so much is prepared at a time, counted in float32; 0: all at once.
      two_stage_top_k: find the best of a vocabulary by blocks first; plain sorts are slow there.
      top_k_recall: share of the best k candidates that a fused, approximate form is asked to find; 1 for an exact one.
        It keeps the best of each of n bins, n ≈ k / (1 − recall), so of the K ≪ k best, which a program reads, it
        misses about K (K − 1) / 2n: none for an argmax.
      sorts_approximately: makes a full sort of an approximate top-k, so it is put together from other operations.
      fused_vector: below this length of the vector, narrow rows are converted on the way to a matrix-vector product.
      gathered_rows: how many gathered rows a product takes at a time (None: all); a larger temporary leaves the cache,
        and above 32 MiB costs ten times as much.
      elementwise_error: how much larger the errors of elementwise float32 operations are taken to be than those
        measured on a CPU. An H100's are no larger: 2 is for other cards. Nothing was measured on a TPU: 8 is assumed.
      rounds_terms: a product of one row with a narrow result may be multiplied in that type, each term rounded.
      picks_kernels: the compiler chooses how a product is summed by timing it, so another program may sum it otherwise.
      sums_in_full: products are computed in full float32 whatever the program asks for, so their rounding is known.
      widens_in_front: takes a weight that is widened in a loop out of the loop, but not out of a branch in it; and how
        a product is summed depends on that.
      drops_roundings: types of results of products that may read a bfloat16 input as it was before it was
        rounded.
      keeps_rounding: where the author reads a bfloat16 value as such, it has been rounded; False: nobody knows.
      costs: what the plan weighs.
    """

    platform: str
    names: tuple[str, ...]
    bf16_as_bits: bool
    rows_one_by_one: bool
    least_rows: int
    rounds_operands: bool
    has_int4: bool
    chunk_bytes: int
    piece_bytes: int
    two_stage_top_k: bool
    top_k_recall: float
    sorts_approximately: bool
    fused_vector: int
    gathered_rows: int | None
    elementwise_error: int
    rounds_terms: bool
    picks_kernels: bool
    sums_in_full: bool
    widens_in_front: bool
    drops_roundings: tuple[str, ...]
    keeps_rounding: bool
    costs: Costs


_TARGETS = {
    "cpu": Target(
        "cpu",
        names=("cpu",),
        bf16_as_bits=True,
        rows_one_by_one=True,
        least_rows=1,
        rounds_operands=False,
        has_int4=False,
        chunk_bytes=4 << 20,
        piece_bytes=16 << 20,
        two_stage_top_k=True,
        top_k_recall=1.0,
        sorts_approximately=True,
        fused_vector=4096,
        gathered_rows=256,
        elementwise_error=1,
        rounds_terms=False,
        picks_kernels=False,
        sums_in_full=True,
        widens_in_front=True,
        drops_roundings=("float32",),
        keeps_rounding=True,
        costs=CPU_COSTS,
    ),
    "gpu": Target(
        "gpu",
        names=("cuda", "rocm"),
        bf16_as_bits=False,
        rows_one_by_one=False,
        least_rows=1,
        rounds_operands=False,
        has_int4=False,
        chunk_bytes=1 << 62,
        piece_bytes=0,
        two_stage_top_k=False,
        top_k_recall=0.95,
        sorts_approximately=True,
        fused_vector=0,
        gathered_rows=None,
        elementwise_error=2,
        rounds_terms=True,
        picks_kernels=True,
        sums_in_full=False,
        widens_in_front=False,
        drops_roundings=("bfloat16", "float32"),
        keeps_rounding=False,
        costs=GPU_COSTS,
    ),
    "tpu": Target(
        "tpu",
        names=("tpu",),
        bf16_as_bits=False,
        rows_one_by_one=False,
        least_rows=8,
        rounds_operands=True,
        has_int4=True,
        chunk_bytes=1 << 62,
        piece_bytes=0,
        two_stage_top_k=False,
        top_k_recall=0.95,
        sorts_approximately=False,
        fused_vector=0,
        gathered_rows=None,
        elementwise_error=8,
        rounds_terms=True,
        picks_kernels=False,
        sums_in_full=False,
        widens_in_front=False,
        drops_roundings=(),
        keeps_rounding=False,
        costs=TPU_COSTS,
    ),
}


PLATFORMS = tuple(_TARGETS)
JAX_PLATFORMS = tuple(name for target in _TARGETS.values() for name in target.names)


def target_for(platform: str) -> Target:
    """The target of a platform, by our name or one of JAX's.

    Raises:
      ConfigError: none is known: nothing is known of its rounding either, so nothing could be proven there.
    """
    for target in _TARGETS.values():
        if platform in (target.platform, *target.names):
            return target
    raise ConfigError(f"platform {platform!r} is unknown: use one of {', '.join(PLATFORMS)}")


@contextmanager
def stand_in(*targets: Target) -> Iterator[None]:
    """For a while, other numbers for a platform: of another card, or for a test. In every thread."""
    known = dict(_TARGETS)
    _TARGETS.update({target.platform: target for target in targets})
    try:
        yield
    finally:
        _TARGETS.update(known)
        for added in _TARGETS.keys() - known.keys():
            del _TARGETS[added]


def lowering_platform(platform: str) -> str:
    """The name under which JAX lowers for a platform: ``gpu`` means CUDA there. Others are left as they are."""
    return _TARGETS[platform].names[0] if platform in _TARGETS else platform


def store(matrix: jax.Array, target: Target) -> jax.Array:
    """The form in which a prepared matrix is kept: bfloat16 as ``uint16`` bits where the target wants it.

    Inside a loop XLA:CPU upcasts a bfloat16 stack as a whole and hoists it; bits it leaves alone.
    """
    return bits_of(matrix) if matrix.dtype == jnp.bfloat16 and target.bf16_as_bits else matrix


def bits_of(matrix: jax.Array) -> jax.Array:
    """A bfloat16 array as ``uint16``, one of eight-bit floats as ``uint8``."""
    return lax.bitcast_convert_type(matrix, jnp.uint16 if matrix.dtype.itemsize == 2 else jnp.uint8)


def load(matrix: jax.Array) -> jax.Array:
    """Undo :func:`store` on what was read."""
    return lax.bitcast_convert_type(matrix, jnp.bfloat16) if matrix.dtype == jnp.uint16 else matrix


def take_rows(matrix: jax.Array, index: jax.Array, target: Target) -> jax.Array:
    """Gather blocks along the first axis: ``[n, …]`` and ``[k]`` to ``[k, …]``; indices must be in range."""
    return load(jnp.take(store(matrix, target), index, axis=0, mode="clip"))


def sum_type(x: jax.Array, rows: jax.Array) -> jnp.dtype:
    """The type in which a product is summed: exactly, in int32, where both factors are whole numbers."""
    whole = jnp.issubdtype(x.dtype, jnp.integer) and jnp.issubdtype(rows.dtype, jnp.integer)
    return jnp.dtype(jnp.int32 if whole else jnp.float32)


def rows_dot(x: jax.Array, rows: jax.Array, *, precise: bool = False, target: Target | None = None) -> jax.Array:
    """``x [b, d]`` times ``rows [n, d]`` transposed, summed in float32, whole numbers in int32: ``[b, n]``."""
    sums = sum_type(x, rows)
    wide = rows.astype(sums)
    precision = lax.Precision.HIGHEST if precise else None
    left = _enough_rows(x.astype(sums), target)
    product = lax.dot_general(left, wide.T, (((1,), (0,)), ((), ())), precision=precision)
    return product if left.shape == x.shape else product[: x.shape[0]]


def unfused(product: jax.Array, target: Target) -> jax.Array:
    """A product of one row that stays by itself when a bias is added to it.

    XLA:CPU fuses that addition with the product, and so loses the fast form of it: a hundred times slower.
    """
    return lax.optimization_barrier(product) if product.shape[0] == 1 and target.rows_one_by_one else product


def _enough_rows(x: jax.Array, target: Target | None) -> jax.Array:
    missing = 0 if target is None else max(target.least_rows - x.shape[0], 0)
    return jnp.pad(x, ((0, missing), (0, 0))) if missing else x


_FACTOR_WIDTH = 512
_FACTOR_ROWS = (16384, 4096)  # in a piece of a long factor, the largest that divides it
_WRITTEN_OUT = 16
ONE_BY_ONE = 5  # rows above which a pass over the copy for each of them costs more than one in chunks


def as_is(rows: jax.Array) -> jax.Array:
    """Stored numbers that need no unpacking."""
    return rows


def dot_of_few(
    x: jax.Array,
    rows: jax.Array,
    target: Target,
    unpack: Callable[[jax.Array], jax.Array] = as_is,
    *,
    precise: bool = False,
) -> jax.Array:
    """``x [b, d]`` of a decode step times a stored copy ``rows [n, d]`` transposed, in float32: ``[b, n]``.

    XLA:CPU converts a narrow copy as a whole, in memory, before a matrix-matrix product. A matrix-vector product
    reads it narrow, so a few rows go one by one; more share one pass over chunks that stay in the cache.

    Args:
      unpack: elementwise, from what is stored to the numbers; done on the way to the product.
      precise: in float32 also where a matrix unit would round its operands first.
    """
    batch, (n, d) = x.shape[0], rows.shape
    piece = next((size for size in _FACTOR_ROWS if n > size and n % size == 0), 0)
    if batch == 1 and target.rows_one_by_one and piece and d <= _FACTOR_WIDTH and unpack is as_is:
        # A long thin factor: XLA:CPU threads this product half as well in one piece.
        return _in_pieces(x, rows, piece, precise)
    if batch == 1 or not target.rows_one_by_one or rows.dtype == jnp.float32:
        return rows_dot(x, unpack(load(rows)), precise=precise, target=target)
    if batch <= ONE_BY_ONE:
        return for_each_row(lambda row: rows_dot(row, unpack(load(rows)), precise=precise), x)
    chunk = max(target.chunk_bytes // (4 * d), 1)
    if chunk >= n:
        return rows_dot(x, unpack(load(rows)), precise=precise)

    def part(start: jax.Array | int, size: int) -> jax.Array:
        narrow = load(lax.dynamic_slice_in_dim(rows, start, size))
        return rows_dot(x, unpack(narrow), precise=precise)

    def body(i: jax.Array, out: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(out, part(i * chunk, chunk), i * chunk, axis=1)

    out = lax.fori_loop(0, n // chunk, body, jnp.zeros((batch, n), jnp.float32))
    rest = n % chunk
    return lax.dynamic_update_slice_in_dim(out, part(n - rest, rest), n - rest, axis=1) if rest else out


def _in_pieces(x: jax.Array, rows: jax.Array, size: int, precise: bool) -> jax.Array:
    def some(i: jax.Array) -> jax.Array:
        return rows_dot(x, load(lax.dynamic_slice_in_dim(rows, i * size, size)), precise=precise)[0]

    return lax.map(some, jnp.arange(rows.shape[0] // size)).reshape(1, -1)


def columns_dot(h: jax.Array, rows: jax.Array, *, precise: bool = False, target: Target | None = None) -> jax.Array:
    """``h [b, n]`` times ``rows [n, d]``, summed in float32, whole numbers in int32: ``[b, d]``."""
    sums = sum_type(h, rows)
    precision = lax.Precision.HIGHEST if precise else None
    left = _enough_rows(h.astype(sums), target)
    product = jnp.dot(left, rows.astype(sums), precision=precision)
    return product if left.shape == h.shape else product[: h.shape[0]]


def own_rows_dot(
    x: jax.Array, matrix: jax.Array, ids: jax.Array, target: Target, *, precise: bool = False
) -> jax.Array:
    """Every ``x [b, d]`` times rows of its own, ``ids [b, k]`` of ``matrix [n, d]``, in float32: ``[b, k]``."""
    if target.rows_one_by_one:
        return for_each_row(lambda row, own: rows_dot(row, take_rows(matrix, own[0], target), precise=precise), x, ids)
    rows = take_rows(matrix, ids.reshape(-1), target).reshape(*ids.shape, -1)  # one gather for the batch
    precision = lax.Precision.HIGHEST if precise else None
    return jnp.einsum("bd,bkd->bk", x.astype(jnp.float32), rows.astype(jnp.float32), precision=precision)


def for_each_row(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Apply a function of one-row arrays ``[1, …]`` to every row and stack the results ``[b, n]``.

    Written out for the few rows of a decode step; a loop for more, before which XLA:CPU widens all of a narrow matrix.
    """
    batch = arrays[0].shape[0]
    if batch > _WRITTEN_OUT:
        return lax.map(lambda rows: function(*(row[None] for row in rows))[0], arrays)
    results = [function(*(array[i : i + 1] for array in arrays)) for i in range(batch)]
    return jnp.concatenate(results, axis=0)
