"""The best dense forms of a feed-forward stack that XLA:CPU offers, pinned; the baseline is the fastest of them.

What they differ in: how the weights are laid out, which operand of a product is transposed, and where narrow
weights become float32. XLA:CPU fuses that conversion into a matrix-vector product only for ``x @ rows.T`` with a
vector below 16 KiB, and only if ``rows`` is an array of its own or a slice along its first dimension inside a loop.
Everything else converts the whole matrix in memory first, or runs down its columns one scalar at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Layer = dict[str, jax.Array]
Weights = list[dict[str, Any]]
Product = Callable[[jax.Array, Any], jax.Array]


@dataclass(frozen=True)
class Block:
    """What stands between the products: ``act`` on the up-projection, or on the gate of a gated block."""

    act: Callable[[jax.Array], jax.Array]
    gated: bool

    def hidden(self, first: Callable[[Any], jax.Array], w: dict[str, Any]) -> jax.Array:
        """h, from a function that makes the product with a weight."""
        return self.act(first(w["gate"])) * first(w["up"]) if self.gated else self.act(first(w["up"]))


def normalize(x: jax.Array) -> jax.Array:
    """RMS normalization without a weight."""
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True))).astype(x.dtype)


def as_written(block: Block) -> Callable[[list[Layer], jax.Array], jax.Array]:
    """The stack as most people write it: ``[in, out]`` weights, one type throughout."""

    def stack(layers: list[Layer], x: jax.Array) -> jax.Array:
        for w in layers:
            x = normalize(x + block.hidden(lambda matrix, x=x: x @ matrix, w) @ w["down"])
        return x

    return stack


def _wide(rows: jax.Array) -> jax.Array:
    bits = rows.dtype == jnp.uint16
    return (lax.bitcast_convert_type(rows, jnp.bfloat16) if bits else rows).astype(jnp.float32)


def _transposed(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.dot(x, _wide(rows).T)


def _contracted(x: jax.Array, rows: jax.Array) -> jax.Array:
    return lax.dot_general(x, _wide(rows), (((1,), (1,)), ((), ())))


def _matrix_vector(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.dot(_wide(rows), x.T).T


def _columns(h: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.dot(h, _wide(matrix))


def _in_parts(h: jax.Array, parts: tuple[jax.Array, ...]) -> jax.Array:
    """Parts ``[out, in / n]``, each an array of its own, so that each vector stays below 16 KiB."""
    total, at = jnp.zeros((h.shape[0], parts[0].shape[0]), jnp.float32), 0
    for rows in parts:
        total, at = total + _transposed(h[:, at : at + rows.shape[1]], rows), at + rows.shape[1]
    return total


def _reduced(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.sum(_wide(rows) * x, axis=-1)[None]


def _looped_parts(h: jax.Array, parts: jax.Array) -> jax.Array:
    """The same with the parts stacked ``[n, out, in / n]`` and taken one by one in a loop."""
    vectors = h.reshape(len(parts), 1, -1)
    nothing = jnp.zeros((1, parts.shape[1]), jnp.float32)
    return lax.fori_loop(0, len(parts), lambda i, total: total + _transposed(vectors[i], parts[i]), nothing)


def _chunked(product_of: Product, size: int) -> Product:
    """Chunks of rows, converted on the way to the product or at least while they are in the cache."""

    def product(x: jax.Array, rows: jax.Array) -> jax.Array:
        def some(i: jax.Array) -> jax.Array:
            return product_of(x, lax.dynamic_slice_in_dim(rows, i * size, size))

        return lax.map(some, jnp.arange(len(rows) // size)).transpose(1, 0, 2).reshape(x.shape[0], -1)

    return product


def _rows(matrix: jax.Array) -> jax.Array:
    return matrix.T.copy()


def _as_bits(store: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
    return lambda matrix: jax.tree.map(lambda a: lax.bitcast_convert_type(a, jnp.uint16), store(matrix))


def _parts(matrix: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(part.T.copy() for part in jnp.split(matrix, _part_count(matrix)))


def _part_count(matrix: jax.Array) -> int:
    return next(n for n in range(1, len(matrix) + 1) if len(matrix) % n == 0 and len(matrix) // n < 4096)


def _stacked_parts(matrix: jax.Array) -> jax.Array:
    return matrix.T.reshape(matrix.shape[1], _part_count(matrix), -1).transpose(1, 0, 2).copy()


def _keep(matrix: jax.Array) -> jax.Array:
    return matrix


# form: (layout of the first matrices, their product, layout of the last, its product, batch sizes it is for)
_FORMS: dict[str, tuple[Any, Product, Any, Product]] = {
    "columns, columns": (_keep, _columns, _keep, _columns),
    "rows, columns": (_rows, _transposed, _keep, _columns),
    "rows, rows contracted": (_rows, _transposed, _rows, _contracted),
    "rows, matrix × vector": (_rows, _transposed, _rows, _matrix_vector),
    "contracted, contracted": (_rows, _contracted, _rows, _contracted),
}
_ONE_ROW = {
    "rows, rows in parts": (_rows, _transposed, _parts, _in_parts),
    "multiplied and reduced": (_rows, _reduced, _rows, _reduced),
}
_NARROW_ONE_ROW = {
    "bits in chunks, fused": (
        _as_bits(_rows), _chunked(_transposed, 512), _as_bits(_stacked_parts), _looped_parts,
    ),
    "rows, stacked parts in a loop": (_rows, _transposed, _as_bits(_stacked_parts), _looped_parts),
}  # fmt: skip
_NARROW = {
    "bits in chunks, converted in the cache": (
        _as_bits(_rows), _chunked(_contracted, 512), _as_bits(_rows), _chunked(_contracted, 128),
    ),
}  # fmt: skip


def dense_forms(
    layers: list[Layer], block: Block, batch: int
) -> dict[str, tuple[Callable[[Weights, jax.Array], jax.Array], Weights]]:
    """Every dense form of a stack, jitted, with the weights laid out as it wants them.

    Args:
      layers: ``up``, ``down`` (and ``gate``), ``[in, out]``.
      batch: rows of x; forms that are for one row alone are left out otherwise.
    """
    narrow = layers[0]["up"].dtype != jnp.float32
    forms = dict(_FORMS) | (_ONE_ROW if batch == 1 else {}) | (_NARROW if narrow else {})
    forms |= _NARROW_ONE_ROW if narrow and batch == 1 else {}
    built = {"dense, as written": (jax.jit(as_written(block)), layers)}
    for name, (store_first, first, store_down, down) in forms.items():
        stored = [{key: (store_down if key == "down" else store_first)(w[key]) for key in w} for w in layers]
        built[f"dense, {name}"] = (jax.jit(_stack(block, first, down)), stored)
    return built


def _stack(block: Block, first: Product, down: Product) -> Callable[[Weights, jax.Array], jax.Array]:
    def stack(layers: Weights, x: jax.Array) -> jax.Array:
        for w in layers:
            wide = x.astype(jnp.float32)
            h = block.hidden(lambda matrix, wide=wide: first(wide, matrix), w)
            x = normalize(x + down(h, w["down"]).astype(x.dtype))
        return x

    return stack


def random_layers(block: Block, count: int, d: int, width: int, dtype: str) -> list[Layer]:
    """Random weights of the usual size, ``[in, out]``."""
    rng = np.random.default_rng(0)

    def random(rows: int, columns: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows)), dtype)

    names = ("gate", "up") if block.gated else ("up",)
    return [{**{name: random(d, width) for name in names}, "down": random(width, d)} for _ in range(count)]
