"""Which neurons of a block are active, counted inside the program that computes them.

One vector holds everything that is counted, so that it can be carried through loops and summed over calls:

- for every size of group, how many rows touched each group of adjacent neurons (the frequencies of static overlap);
- for every size of group and some numbers of rows taken together, a histogram of the share of groups that these rows
  touch between them (dynamic overlap: what one call with such a batch has to read).
"""

from __future__ import annotations

from math import ceil

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler.runtime.checks import any_of

GROUPS = (1, 2, 4, 8, 16, 32, 64, 128)
TOGETHER = (1, 2, 4, 8, 16)  # rows of a call
BINS = 256  # a histogram has one more: bin i counts shares in ((i - 1) / BINS, i / BINS]


def counted_groups(width: int) -> tuple[int, ...]:
    """The sizes of groups that divide a width."""
    return tuple(group for group in GROUPS if width % group == 0)


def counted_size(width: int) -> int:
    """Length of the vector of counts for so many neurons."""
    groups = counted_groups(width)
    return sum(width // group for group in groups) + len(groups) * len(TOGETHER) * (BINS + 1)


def split_counts(counts: np.ndarray, width: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Vectors of counts ``[…, counted_size]`` taken apart.

    Returns:
      By size of group the rows that touched each group, ``[…, width / group]``, and the histograms
      ``[…, sizes of group, len(TOGETHER), BINS + 1]``.
    """
    groups = counted_groups(width)
    ends = np.cumsum([width // group for group in groups])
    *touched, rest = np.split(counts, ends, axis=-1)
    shape = (*counts.shape[:-1], len(groups), len(TOGETHER), BINS + 1)
    return dict(zip(groups, touched, strict=True)), rest.reshape(shape)


def active_neurons(h: jax.Array, strongest: float | None) -> jax.Array:
    """What counts as active: not zero, or (where nothing is exactly zero) among the strongest share of its row.

    Args:
      h: hidden activations ``[b, m]``.

    Returns:
      bool ``[b, m]``.
    """
    if strongest is None:
        return h != 0
    size = jnp.abs(h.astype(jnp.float32))
    return size >= lax.top_k(size, max(1, ceil(strongest * h.shape[1])))[0][:, -1:]


def count_active(active: jax.Array) -> jax.Array:
    """The counts of one call: float32 ``[counted_size(m)]``.

    Rows that are taken together are as far apart as the call has them: of a batch of passages they belong to different
    ones, as the rows of a batched decode step do.

    Args:
      active: bool ``[b, m]``.
    """
    batch, width = active.shape
    numbers = np.array([width // group for group in counted_groups(width)], np.int32)
    ends = np.cumsum(numbers)
    # Side by side, so that one operation counts all sizes of group.
    groups = jnp.concatenate([any_of(active.reshape(batch, n, width // n), 2) for n in numbers.tolist()], axis=1)
    place = jnp.arange(groups.shape[1], dtype=jnp.int32)[:, None]
    of_size = ((place >= ends - numbers) & (place < ends)).astype(jnp.float32)
    bins = []
    for j, rows in enumerate(TOGETHER):
        sets = batch // rows
        union = any_of(groups[: sets * rows].reshape(rows, sets, groups.shape[1]), 0)
        count = jnp.dot(union.astype(jnp.float32), of_size, precision=lax.Precision.HIGHEST).astype(jnp.int32)
        shares = (count * BINS + (numbers - 1)) // numbers  # rounded up
        bins.append((shares + (np.arange(len(numbers)) * len(TOGETHER) + j) * (BINS + 1)).reshape(-1))
    histograms = jnp.zeros(len(numbers) * len(TOGETHER) * (BINS + 1), jnp.float32)
    touched = jnp.sum(groups.astype(jnp.float32), axis=0)
    return jnp.concatenate([touched, histograms.at[jnp.concatenate(bins)].add(1.0)])
