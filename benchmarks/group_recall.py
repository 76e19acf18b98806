"""How many of a block's kept groups a low-rank predictor has among its candidates, without rewriting anything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.runtime.low_rank import prepare_low_rank
from hire_compiler.runtime.predictors import predict
from hire_compiler.runtime.target import target_for
from hire_compiler.runtime.topk import top_groups

CPU = target_for("cpu")


def group_recall(
    x: jax.Array, up: jax.Array, bias: jax.Array, moment: np.ndarray, kept: np.ndarray, rank: int, room: int
) -> tuple[int, int]:
    """Of the kept groups of every row: how many are among the candidates, and how many there are.

    Args:
      x: inputs of the block, ``[rows, d]``.
      up, bias: ``[d, m]`` and ``[m]``.
      moment: second moment of the inputs, ``[d, d]``.
      kept: which groups the model keeps, bool ``[rows, groups]``.
      room: candidates, in neurons.
    """
    group = up.shape[1] // kept.shape[1]
    scores = predict(x, prepare_low_rank(up.T, rank, jnp.asarray(moment), "float32"), CPU) + bias
    chosen = jax.vmap(lambda row: top_groups(row[None], group, room // group))(scores)
    return int(np.take_along_axis(kept, np.asarray(chosen), axis=1).sum()), int(kept.sum())
