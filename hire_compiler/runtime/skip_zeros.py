"""Feed-forward blocks that skip only what is zero: known from the gate itself, or proven from a bound.

Both find the groups of neurons that may be non-zero. If these fit in a budget they alone are computed, else all are:
``lax.switch``, of which one branch runs. Either way the result is that of the dense block, up to the order of its sums.

The order of a sum matters where it may overflow: it decides between Inf, NaN and a number. So beside the result stands
whether bounds exclude that; where they do not, the author's own operations have to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from hire_compiler.runtime.certify import upper_bounds
from hire_compiler.runtime.checks import all_of, any_of, how_many
from hire_compiler.runtime.ffn import Down, Form, PerRow
from hire_compiler.runtime.gathered import Matrix
from hire_compiler.runtime.predictors import Arrays, predict

Numbered = dict[int, jax.Array]


@dataclass(frozen=True)
class Skipped:
    """What a block came to.

    Attributes:
      y: ``[b, d_out]`` float32 (or int32 sums).
      scales: what :attr:`~hire_compiler.runtime.ffn.Form.quantise` says of the rows.
      fits: whether a budget held; else every neuron was computed, if there was leave to.
      counted: int32, a one for the budget that ran (or for all neurons, behind them), and one for the share of all
        groups that was active, of :data:`SHARES` equal steps.
      ordinary: whether no number on the way can overflow, in whatever order sums are taken.
    """

    y: jax.Array
    scales: tuple[jax.Array, ...]
    fits: jax.Array
    counted: jax.Array
    ordinary: jax.Array


SHARES = 64  # steps of the shares that are counted; there is one count more: step i is ((i - 1) / SHARES, i / SHARES]


class SkippingStages(Protocol):
    """The author's elementwise code, cut in two: what follows from the gate, and the rest.

    Values have numbers: the products come first (0, 1), then the vectors.
    """

    def first(self, inputs: Numbered) -> Numbered:
        """From the gate's product and the vectors: what :meth:`second` reads."""

    def second(self, known: Numbered, inputs: Numbered) -> jax.Array:
        """h, from that and the other product; on all neurons or on some."""

    def zero(self, known: Numbered, limits: Numbered) -> jax.Array:
        """Where h is certainly zero, whatever the other product is, as long as it does not exceed these limits."""


class Negative(Protocol):
    """The author's elementwise code, and what follows where its gate is proven negative."""

    @property
    def bias(self) -> int | None:
        """The number of the vector that is added to the gate's product, or None."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Types that the sum and its parts pass through."""

    def zero(self, negative: jax.Array, limit: jax.Array, limits: Numbered, vectors: Numbered) -> jax.Array:
        """Where h is certainly zero: where the sum is negative, of at most that size, the products within theirs."""


def exact_ffn(
    x: jax.Array,
    matrices: Sequence[Matrix],
    down: Down,
    vectors: Sequence[jax.Array | PerRow],
    prepared: Arrays,
    gate: int,
    budgets: Sequence[int],
    form: Form,
    stages: SkippingStages,
    *,
    product: jax.Array | None = None,
    or_all: bool = True,
) -> Skipped:
    """A block of which only what its gate leaves non-zero is computed further.

    A ReLU, or an explicit or statistical choice of neurons: the gate is computed whole, the author's own code says
    what of it is exactly zero, and the other matrices skip that.

    Args:
      x: ``[b, d]``.
      matrices: rows ``[m, d]`` of up, or of gate and up; or stacked.
      prepared: the :func:`row_limits` of every matrix, and the :func:`largest_entry` of ``down``.
      gate: which of the matrices is computed whole.
      budgets: numbers of groups, ascending. The smallest in which the active ones fit is computed; where more are
        active than the last holds, the dense block runs.
      product: the author's own product of the gate, ``[b, m]``, if a rounding of it may decide.
      or_all: whether it does; else the result is wrong then, and only said to be.
    """
    z = form.product(x, matrices[gate]) if product is None else product
    width = z.shape[1]
    inputs = {gate: z} | {len(matrices) + i: form.whole(vector, 1) for i, vector in enumerate(vectors)}
    known = stages.first(inputs)
    others = [i for i in range(len(matrices)) if i != gate]
    limits = _limits(x, len(matrices), prepared, form)
    zero = stages.zero(known, {i: limits[i] for i in others})
    needed = jnp.logical_not(jnp.broadcast_to(zero, z.shape))

    def finish(take: Callable[[jax.Array], jax.Array], product: Callable[[Matrix], jax.Array]) -> jax.Array:
        some = {i: take(value) if value.ndim and value.shape[-1] == width else value for i, value in known.items()}
        return stages.second(some, {i: product(matrices[i]) for i in others})

    def sparse(groups: jax.Array) -> jax.Array:
        take = _choose(groups, form.group)
        return finish(take, lambda matrix: form.chosen_product(x, matrix, groups))

    def dense() -> jax.Array:
        return finish(lambda value: value, lambda matrix: form.product(x, matrix))

    return _sparse_or_dense(needed, budgets, down, form, sparse, dense if or_all else None, limits, prepared)


def certified_ffn(
    x: jax.Array,
    matrices: Sequence[Matrix],
    down: Down,
    vectors: Sequence[jax.Array | PerRow],
    prepared: Arrays,
    gate: int,
    budget: int,
    form: Form,
    code: Negative,
    *,
    or_all: bool = True,
) -> Skipped:
    """A block that skips the neurons whose gate is *proven* to be negative, where its code is zero then.

    Args:
      prepared: an int8 copy of the gate with its bound, the :func:`row_limits` of every matrix, and the
        :func:`largest_entry` of ``down``.
      gate: which of the matrices that is.
      or_all: as for :func:`exact_ffn`.
    """
    whole = {len(matrices) + i: form.whole(vector, 1) for i, vector in enumerate(vectors)}
    bias = jnp.zeros(()) if code.bias is None else whole[code.bias].astype(jnp.float32)
    limits = _limits(x, len(matrices), prepared, form)
    negative = proven_negative(x, bias, prepared, form, code.dtypes)
    sums = _fitting(limits[gate] + 2 * jnp.abs(bias), code.dtypes)
    zero = jnp.broadcast_to(code.zero(negative, sums, limits, whole), negative.shape)

    def sparse(groups: jax.Array) -> jax.Array:
        products = [form.chosen_product(x, matrix, groups) for matrix in matrices]
        return form.activation(*products, *(form.take_vector(vector, groups) for vector in vectors))

    def dense() -> jax.Array:
        products = [form.product(x, matrix) for matrix in matrices]
        return form.activation(*products, *(form.whole(vector, 1) for vector in vectors))

    needed = jnp.logical_not(zero)
    return _sparse_or_dense(needed, (budget,), down, form, sparse, dense if or_all else None, limits, prepared)


def proven_negative(
    x: jax.Array, bias: jax.Array, prepared: Arrays, form: Form, dtypes: Sequence[str] = ()
) -> jax.Array:
    """Which neurons certainly have ``x · gate + bias`` below −1e-12: bool ``[b, m]``.

    For the int8 copy of a row and its bound, z̃ + ε + bias is an upper limit of what the dense program can compute.

    Args:
      dtypes: types through which the author passes the product, the bias and their sum, beside that of the product.
    """
    scores = predict(x, {name: prepared[name] for name in ("q", "scale")}, form.target, form.layer, precise=True)
    upper = upper_bounds(scores, form.whole(prepared["bound"], 1), x)
    # The author may round the product, and its sum with the bias, to a narrow type.
    coarsest = max(float(jnp.finfo(dtype).eps) for dtype in ("float32", form.product_dtype, *dtypes))
    rounding = 4 * coarsest * (jnp.abs(scores) + (upper - scores) + jnp.abs(bias))
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=1, keepdims=True)
    usual = (largest > SMALLEST) & (largest < LARGEST)  # elsewhere norms and products may under- or overflow
    return (upper + bias + rounding < -SMALLEST) & usual


SMALLEST, LARGEST = 1e-12, 1e12  # largest entries of an input or of a row of weights for which bounds are trusted


def trusted_bound(rows: jax.Array, bound: jax.Array) -> jax.Array:
    """The bounds of rows ``[m, d]``, infinite for those whose size is unusual: these are never proven."""
    largest = jnp.max(jnp.abs(rows.astype(jnp.float32)), axis=1)
    return jnp.where((largest > SMALLEST) & (largest < LARGEST), bound, jnp.inf)


def row_limits(rows: jax.Array, down: jax.Array) -> jax.Array:
    """What ``|row · x|`` does not exceed for ‖x‖ = 1, and infinity where the neuron may not be skipped: ``[…, m]``.

    Dense multiplies the zeros, too: by an entry that is NaN or infinite they become NaN.

    Args:
      rows: of one of the first matrices, ``[…, m, d]``.
      down: rows of the last one, ``[…, m, d_out]``. If any of them is not finite, none of a layer may be skipped.
    """
    norm = jnp.sqrt(jnp.sum(jnp.square(rows.astype(jnp.float32)), axis=-1)) + _UNDERFLOW
    usable = all_of(jnp.isfinite(down), (-2, -1))[..., None] & jnp.isfinite(norm)
    return jnp.where(usable, norm, jnp.inf)


_UNDERFLOW = 1e-16  # more than what is lost of a norm whose squares underflow


def largest_entry(down: jax.Array) -> jax.Array:
    """The size of the largest entry of the last matrix ``[…, m, d_out]``: ``[…, 1]``."""
    return jnp.max(jnp.abs(down.astype(jnp.float32)), axis=(-2, -1))[..., None]


def ordinary(values: jax.Array) -> jax.Array:
    """Whether all are finite, and too small to have overflowed had they been rounded otherwise."""
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return jnp.ones((), bool)
    return all_of(jnp.abs(values) < float(jnp.finfo(values.dtype).max) / 2)  # NaN is not smaller


def _limits(x: jax.Array, count: int, prepared: Arrays, form: Form) -> Numbered:
    return {i: product_limit(x, prepared[f"limit{i}"], form) for i in range(count)}


def product_limit(x: jax.Array, limit: jax.Array, form: Form) -> jax.Array:
    """What no product of a row of ``x [b, d]`` exceeds, ``[b, m]``; infinite where it may overflow in its type.

    Twice the product of the norms: room for what dense rounds, of the operands too.
    """
    norm = jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1, keepdims=True)) + _UNDERFLOW
    return _fitting(2 * norm * form.whole(limit, 1), (form.product_dtype,))


def _fitting(size: jax.Array, dtypes: Sequence[str]) -> jax.Array:
    """A limit that is infinite where a number of that size may overflow in one of these types."""
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]  # whole numbers are not so many
    largest = min(float(jnp.finfo(dtype).max) for dtype in ("float32", *floats))
    return jnp.where(size < largest / 2, size, jnp.inf)  # NaN is not smaller


Ended = tuple[jax.Array, tuple[jax.Array, ...], jax.Array]
_SHARDS = 1024  # whose sums are added up, at most


def _sparse_or_dense(
    needed: jax.Array,
    budgets: Sequence[int],
    down: Down,
    form: Form,
    sparse: Callable[[jax.Array], jax.Array],
    dense: Callable[[], jax.Array] | None,
    limits: Numbered,
    prepared: Arrays,
) -> Skipped:
    """Compute the needed neurons ``[b, m]`` if their groups fit in a budget, else all."""
    batch = needed.shape[0]
    active = any_of(needed.reshape(batch, -1, form.group), (0, 2))
    count = how_many(active)

    def end(h: jax.Array, product: Callable[[jax.Array], jax.Array]) -> Ended:
        y, scales = form.finish(h, product)
        sizes = jnp.sum(jnp.abs(h.astype(jnp.float32)), axis=1)
        return y, scales, ordinary(h) & ordinary(_SHARDS * sizes * form.whole(prepared["largest"], 1))

    def some(budget: int) -> Ended:
        groups = lax.top_k(active.astype(jnp.float32), budget)[1]  # the active ones first, in ascending order
        h = sparse(groups)
        used = jnp.repeat(jnp.arange(budget) < count, form.group)
        kept = jnp.where(used, h, jnp.zeros_like(h))
        return end(kept, lambda h: form.chosen_down_product(h, down, groups))

    def every(h: Callable[[], jax.Array]) -> Ended:
        return end(h(), lambda h: form.down_product(h, down))

    too_small = sum((count > budget).astype(jnp.int32) for budget in budgets)  # beyond the branches: the last
    branches = [partial(some, budget) for budget in budgets]
    y, scales, finished = lax.switch(too_small, [*branches, *([] if dense is None else [partial(every, dense)])])
    started = jnp.stack([all_of(jnp.isfinite(limit)) for limit in limits.values()]).all()
    counted = jnp.concatenate([_one_of(too_small, len(budgets) + 1), _one_of(_share(count, active.size), SHARES + 1)])
    return Skipped(y, scales, count <= budgets[-1], counted, started & finished & ordinary(y))


def _share(count: jax.Array, groups: int) -> jax.Array:
    """In which of the steps a number of groups lies."""
    return (count * SHARES + groups - 1) // groups


def _one_of(number: jax.Array, length: int) -> jax.Array:
    """Zeros, and a one at ``number``."""
    return (jnp.arange(length) == number).astype(jnp.int32)


def _choose(groups: jax.Array, group: int) -> Callable[[jax.Array], jax.Array]:
    """Takes the columns of the chosen groups."""

    def take(value: jax.Array) -> jax.Array:
        blocks = value.reshape(*value.shape[:-1], -1, group)
        return jnp.take(blocks, groups, axis=-2, mode="clip").reshape(*value.shape[:-1], -1)

    return take
