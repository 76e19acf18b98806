"""HiRE-FFN: predict which neurons matter, then compute only those, in both (or all three) matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.target import Target, columns_dot, rows_dot, take_rows
from hire_compiler.runtime.topk import top_groups


def select_groups(
    x: jax.Array,
    prepared: Arrays,
    bias: jax.Array | None,
    activation: str,
    group: int,
    k: int,
    target: Target,
    layer: jax.Array | None = None,
) -> jax.Array:
    """The ``k`` groups of neurons to compute for a batch: int32 ``[k]``, ascending.

    Args:
      x: ``[b, d]``.
      bias: added to the predicted pre-activation, ``[m]`` (or stacked) or None.
      activation: name of the activation; it decides what makes a neuron matter.
      layer: which layer of stacked arrays.
    """
    z = predict(x, prepared, target, layer)
    if bias is not None:
        z = z + (bias if layer is None else lax.dynamic_index_in_dim(bias, layer, keepdims=False))
    return top_groups(relevance(z, activation), group, k)


def relevance(z: jax.Array, activation: str) -> jax.Array:
    """How much a neuron matters, from its predicted pre-activation.

    Where negative values give exact zeros the value itself ranks best (the least negative neuron is the
    likeliest to be wrongly predicted); elsewhere it is the size of what the neuron passes on.
    """
    size = _SIZES.get(activation)
    return z if size is None else jnp.abs(size(z))


_SIZES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "gelu_tanh": jax.nn.gelu,
    "gelu_sigmoid": lambda z: z * jax.nn.sigmoid(1.702 * z),
    "tanh": jnp.tanh,
    "identity": jnp.abs,
}


def sparse_ffn(
    x: jax.Array,
    matrices: Sequence[jax.Array],
    down: jax.Array,
    biases: Sequence[jax.Array],
    activation: Callable[..., jax.Array],
    groups: jax.Array,
    group: int,
    target: Target,
    *,
    layer: jax.Array | None = None,
    product_dtype: str = "float32",
    precise: bool = False,
) -> jax.Array:
    """A feed-forward block on the chosen groups of neurons only.

    Args:
      x: ``[b, d]``.
      matrices: rows ``[m, d]`` of up (or gate and up), or stacked ``[layers, m, d]``.
      down: ``[m, d_out]``, or stacked.
      biases: ``[m]`` (or stacked) parameters of the activation, one entry per neuron.
      activation: the author's elementwise code on (products…, biases…).
      groups: int32 ``[k]``.
      layer: which layer of stacked weights; the gather indexes it directly, because slicing the layer
        first makes a TPU copy all of it.
      product_dtype: type in which the author's products came out, before the activation.

    Returns:
      ``[b, d_out]`` float32.
    """

    def pick(stack: jax.Array) -> jax.Array:
        return _take_groups(stack, groups, group, layer, target)

    products = [rows_dot(x, pick(matrix), precise=precise).astype(product_dtype) for matrix in matrices]
    h = activation(*products, *(pick(bias[..., None])[:, 0] for bias in biases))
    if h.shape[1] * down.shape[-1] * 4 <= target.gather_limit:
        return columns_dot(h, pick(down), precise=precise)
    return _chunked_down(h, down, groups, group, target, layer, precise)


def _take_groups(stack: jax.Array, groups: jax.Array, group: int, layer: jax.Array | None, target: Target) -> jax.Array:
    m, width = stack.shape[-2:]
    blocks = stack.reshape(-1, group, width)
    index = groups if layer is None else groups + layer.astype(jnp.int32) * (m // group)
    return take_rows(blocks, index, target).reshape(-1, width)


def _chunked_down(
    h: jax.Array,
    down: jax.Array,
    groups: jax.Array,
    group: int,
    target: Target,
    layer: jax.Array | None,
    precise: bool,
) -> jax.Array:
    """The second product a few groups at a time, so that the gathered rows stay in cache.

    The first product needs no such care: there XLA fuses the gather into the dot. The last chunk is filled up with
    group 0 times zero.
    """
    chunk = max(1, min(len(groups), 128 // group))
    count = -(-len(groups) // chunk)
    missing = count * chunk - len(groups)
    index = jnp.pad(groups, (0, missing)).reshape(count, chunk)
    weights = jnp.pad(h.astype(jnp.float32), ((0, 0), (0, missing * group)))
    weights = weights.reshape(h.shape[0], count, chunk * group)

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        rows = _take_groups(down, index[i], group, layer, target)
        return total + columns_dot(weights[:, i], rows, precise=precise)

    return lax.fori_loop(0, count, add, jnp.zeros((h.shape[0], down.shape[-1]), jnp.float32))
