"""HiRE-FFN: predict which neurons matter, then compute only those, in both (or all three) matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.gathered import Matrix, chosen_columns_dot, chosen_rows_dot
from hire_compiler.runtime.narrow_rows import NarrowRows
from hire_compiler.runtime.predictors import Arrays, predict
from hire_compiler.runtime.target import Target, columns_dot, load, rows_dot, take_rows, unfused
from hire_compiler.runtime.topk import top_groups

Quantise = Callable[[jax.Array], "tuple[jax.Array, tuple[jax.Array, ...]]"]
Down: TypeAlias = "Matrix | tuple[Matrix, ...]"  # the last matrix; or several, whose results stand side by side
Rank = Callable[[jax.Array], jax.Array]


def select_groups(
    x: jax.Array,
    prepared: Arrays,
    bias: jax.Array | PerRow | None,
    rank: Rank,
    group: int,
    k: int,
    target: Target,
    layer: jax.Array | None = None,
    by: str = "max",
    scale: jax.Array | None = None,
) -> jax.Array:
    """The ``k`` groups of neurons to compute for a batch: int32 ``[k]``, ascending.

    Args:
      x: ``[b, d]``.
      bias: added to the predicted pre-activation, ``[m]`` (or stacked) or None.
      rank: from that to how much each neuron matters, ``[b, m]`` both.
      layer: which layer of stacked arrays.
      scale: of each batch row, ``[b, 1]`` or of each of its neurons: what the prediction is multiplied by first.
      by: what a group counts with: ``max`` or ``l2``; see :func:`hire_compiler.runtime.topk.group_scores`.
    """
    z = predict(x, prepared, target, layer)
    if scale is not None:
        z = unfused(z, target) * scale
    if isinstance(bias, PerRow):
        z = unfused(z, target) + bias.values
    elif bias is not None:
        z = unfused(z, target) + (bias if layer is None else lax.dynamic_index_in_dim(bias, layer, keepdims=False))
    return top_groups(rank(z), group, k, by)


@dataclass(frozen=True)
class PerRow:
    """A vector that differs by batch row, ``[b, m]``, where others are ``[m]`` or stacked: what an adapter adds."""

    values: jax.Array


@dataclass(frozen=True)
class Form:
    """How a block is written, beside its arrays.

    Attributes:
      activation: the author's elementwise code on (products…, biases…).
      group: adjacent neurons chosen together.
      layer: which layer of stacked weights; gathers index it directly, because slicing the layer first makes a
        TPU copy all of it.
      product_dtype: type in which the author's products came out, before the activation.
      precise, down_precise: the author asked for full precision, in the first products or in the last.
      quantise: what becomes of h before the last product, and numbers of each batch row that are read behind it.
    """

    activation: Callable[..., jax.Array]
    group: int
    target: Target
    layer: jax.Array | None = None
    product_dtype: str = "float32"
    precise: bool = False
    down_precise: bool = False
    quantise: Quantise | None = None

    def product(self, x: jax.Array, stack: Matrix) -> jax.Array:
        """One of the first products with all rows, in the author's type: ``[b, m]``."""
        if isinstance(stack, NarrowRows):
            narrow = stack.of_layer(self.layer).product(x, precise=self.precise)
            return unfused(narrow, self.target).astype(self.product_dtype)
        whole = rows_dot(x, self.whole(stack, 2), precise=self.precise, target=self.target)
        return unfused(whole, self.target).astype(self.product_dtype)

    def chosen_product(self, x: jax.Array, stack: Matrix, groups: jax.Array) -> jax.Array:
        """One of the first products with the chosen groups alone: ``[b, k · group]``."""
        rows, index = self._flat(stack, groups)
        product = chosen_rows_dot(x, rows, index, self.group, self.target, precise=self.precise)
        return unfused(product, self.target).astype(self.product_dtype)

    def common_product(self, x: jax.Array, stack: Matrix) -> jax.Array:
        """One of the first products with the neurons that are always computed, one block of memory: ``[b, c]``."""
        if self.layer is None:
            return self.product(x, stack)
        return self.chosen_product(x, stack, self._all_groups(stack))

    def common_down_product(self, h: jax.Array, stack: Down) -> jax.Array:
        """The last product, of ``h [b, c]`` with the neurons that are always computed: ``[b, d_out]`` float32."""
        first = stack[0] if isinstance(stack, tuple) else stack
        return self.chosen_down_product(h, stack, self._all_groups(first))

    def _all_groups(self, stack: Matrix) -> jax.Array:
        # As a gather: slicing a layer out of a stack first would copy it.
        return jnp.arange(stack.shape[-2] // self.group, dtype=jnp.int32)

    def finish(
        self, h: jax.Array, product: Callable[[jax.Array], jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The last product, of h as it enters there; and the numbers of each batch row that are read behind it."""
        entering, scales = (h, ()) if self.quantise is None else self.quantise(h)
        return product(entering), scales

    def chosen_down_product(self, h: jax.Array, stack: Down, groups: jax.Array) -> jax.Array:
        """The last product, of ``h [b, k · group]`` with the chosen groups: ``[b, d_out]`` float32."""
        if isinstance(stack, tuple):
            return jnp.concatenate([self.chosen_down_product(h, one, groups) for one in stack], axis=1)
        rows, index = self._flat(stack, groups)
        return chosen_columns_dot(h, rows, index, self.group, self.target, precise=self.down_precise)

    def _flat(self, stack: Matrix, groups: jax.Array) -> tuple[Matrix, jax.Array]:
        if isinstance(stack, NarrowRows):
            return stack.of_layer(self.layer), groups
        m, width = stack.shape[-2:]
        index = groups if self.layer is None else groups + self.layer.astype(jnp.int32) * (m // self.group)
        return stack.reshape(-1, width), index

    def down_product(self, h: jax.Array, stack: Down) -> jax.Array:
        """The last product with all rows: ``[b, d_out]`` float32."""
        if isinstance(stack, tuple):
            return jnp.concatenate([self.down_product(h, one) for one in stack], axis=1)
        if isinstance(stack, NarrowRows) or (
            self.target.rows_one_by_one and h.shape[0] == 1 and stack.dtype.itemsize == 2
        ):
            # Row by row, as chosen ones are: else XLA:CPU widens all of it first, in ten times the time.
            return self.chosen_down_product(h, stack, self._all_groups(stack))
        return columns_dot(h, self.whole(stack, 2), precise=self.down_precise, target=self.target)

    def take_vector(self, stack: jax.Array | PerRow, groups: jax.Array) -> jax.Array:
        """The entries of the chosen groups of a vector: ``[k · group]``, or ``[b, k · group]``."""
        if isinstance(stack, PerRow):
            b = stack.values.shape[0]
            return stack.values.reshape(b, -1, self.group)[:, groups].reshape(b, -1)
        entries, index = self._flat(stack[..., None], groups)
        assert not isinstance(entries, NarrowRows)
        return take_rows(entries.reshape(-1, self.group), index, self.target).reshape(-1)

    def whole(self, stack: jax.Array | PerRow, rank: int) -> jax.Array:
        """All rows of the layer."""
        if isinstance(stack, PerRow):
            return stack.values
        one = stack if stack.ndim == rank else lax.dynamic_index_in_dim(stack, self.layer, keepdims=False)
        return load(one)


@dataclass(frozen=True)
class CommonPath:
    """The neurons that every call computes: their rows of every first matrix, and of the last one."""

    matrices: Sequence[Matrix]
    down: Down


def sparse_ffn(
    x: jax.Array,
    matrices: Sequence[Matrix],
    down: Down,
    biases: Sequence[jax.Array | PerRow],
    groups: jax.Array,
    form: Form,
    common: CommonPath | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """A feed-forward block on the chosen groups of neurons only, and on those of the common path; and its row scales.

    Args:
      x: ``[b, d]``.
      matrices: rows ``[m, d]`` of up (or gate and up), or stacked ``[layers, m, d]``.
      down: ``[m, d_out]``, or stacked.
      biases: ``[c + m]`` (or stacked) parameters of the activation, one entry per neuron, c of the common path first.
      groups: int32 ``[k]``.
      common: the neurons of the common path, which ``matrices`` and ``down`` do not hold; c is a multiple of the group.

    Returns:
      ``[b, d_out]`` float32, or int32 sums; and what :attr:`Form.quantise` says of the rows.
    """
    products = [form.chosen_product(x, matrix, groups) for matrix in matrices]
    if common is None:
        h = form.activation(*products, *(form.take_vector(bias, groups) for bias in biases))
        return form.finish(h, lambda h: form.chosen_down_product(h, down, groups))
    c = common.matrices[0].shape[-2]
    always = [form.common_product(x, matrix) for matrix in common.matrices]
    products = [jnp.concatenate(pair, axis=1) for pair in zip(always, products, strict=True)]
    first = c // form.group
    entries = jnp.concatenate([jnp.arange(first, dtype=groups.dtype), groups + first])
    h = form.activation(*products, *(form.take_vector(bias, entries) for bias in biases))
    y = form.common_down_product(h[:, :c], common.down) + form.chosen_down_product(h[:, c:], down, groups)
    return y, ()
