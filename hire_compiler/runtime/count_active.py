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
    touched, histograms = [], []
    for group in counted_groups(width):
        groups = active.reshape(batch, width // group, group).any(axis=2)
        touched.append(jnp.sum(groups, axis=0, dtype=jnp.float32))
        for rows in TOGETHER:
            sets = batch // rows
            union = groups[: sets * rows].reshape(rows, sets, width // group).any(axis=0)
            count = jnp.sum(union, axis=1, dtype=jnp.int32)
            shares = (count * BINS + (width // group - 1)) // (width // group)  # rounded up
            histograms.append(jnp.zeros(BINS + 1, jnp.float32).at[shares].add(1.0))
    return jnp.concatenate([*touched, *histograms])
