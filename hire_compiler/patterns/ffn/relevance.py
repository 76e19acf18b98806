"""How much a neuron matters, from its predicted gate alone: the size of what the author's own code makes of it.

Where negative gates give zeros the gate itself ranks: of two that are predicted to be zero, the less negative one is
likelier not to be. What is not known yet stands still: the other product of a gated block at a number, its bias at
zero. A choice by rank that the author makes is left out, because it is made again among the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from hire_compiler.graph.expression import Expression, Instruction

_OTHERS = (1.0, -1.0, 4.0, -4.0)  # where the other product may stand: at the first where neurons differ from zero


@dataclass(frozen=True)
class Relevance:
    """From a predicted gate, its bias added, to how much a neuron matters.

    Attributes:
      code: the author's, in float32; None where the gate itself ranks.
      gate: which input of the code that is.
      fixed: its other inputs that stand still, by number.
      reads: the vectors that it reads beside, by their number among all vectors.
    """

    code: Expression | None = None
    gate: int = 0
    fixed: tuple[tuple[int, float], ...] = ()
    reads: tuple[int, ...] = ()

    def __call__(self, z: Any, vectors: Sequence[Any]) -> Any:
        """Scores ``[b, m]``; ``vectors`` are those of ``reads``."""
        if self.code is None:
            return z
        free = [i for i in range(self.code.inputs) if i != self.gate and i not in dict(self.fixed)]
        floats = [v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in vectors]
        given = {self.gate: z, **dict(zip(free, floats, strict=True))}
        given |= {i: jnp.float32(value) for i, value in self.fixed}
        return jnp.abs(self.code.evaluate([given[i] for i in range(self.code.inputs)], exact=True))


@lru_cache(maxsize=1024)
def relevance_of(expression: Expression, streams: int, gate: int, gate_bias: int | None) -> Relevance:
    """The relevance of a block's neurons.

    Args:
      expression: from products (as many as ``streams``) and vectors to the neurons.
      gate: the product that is predicted.
      gate_bias: which of the vectors is added to it before it is ranked, or None.
    """
    if expression.sums_rows:
        return Relevance()
    code = _unchosen(expression)
    own = None if gate_bias is None else streams + gate_bias
    others = [i for i in range(streams) if i != gate]
    added = [v for v in range(streams, code.inputs) if v != own and any(_is_added(code, v, i) for i in others)]
    reads = tuple(v - streams for v in range(streams, code.inputs) if v != own and v not in added)
    still = dict.fromkeys([*added, *([] if own is None else [own])], 0.0)
    for at in _OTHERS:
        fixed = still | dict.fromkeys(others, at)
        below, above = (_size(code, gate, fixed, z) for z in (np.linspace(-8, -0.1, 80), np.linspace(0.1, 8, 80)))
        if not np.isfinite([below, above]).all() or not (below.any() or above.any()):
            continue
        if not below.any():
            return Relevance()
        return Relevance(code.widened, gate, tuple(sorted(fixed.items())), reads)
    return Relevance()


def _size(code: Expression, gate: int, fixed: dict[int, float], z: np.ndarray) -> np.ndarray:
    """What the code makes of a gate; vectors that are free are random."""
    rng = np.random.default_rng(0)
    given = {i: rng.normal(size=z.shape) for i in range(code.inputs)} | {i: np.asarray(v) for i, v in fixed.items()}
    result = code.evaluate([*(({**given, gate: z})[i] for i in range(code.inputs))])
    return np.broadcast_to(np.abs(result), z.shape)


def _is_added(code: Expression, vector: int, stream: int) -> bool:
    """Whether a vector does nothing but shift a product."""
    rng = np.random.default_rng(1)
    given = [rng.normal(size=64) for _ in range(code.inputs)]
    moved = list(given)
    moved[vector], moved[stream] = np.zeros(64), given[stream] + given[vector]
    return bool(np.allclose(code.evaluate(given), code.evaluate(moved), rtol=1e-9, atol=1e-9))


def _unchosen(expression: Expression) -> Expression:
    """The code without the author's own choice by rank."""

    def plain(i: Instruction) -> Instruction:
        if i.op == "row_rank":
            return Instruction("constant", (), i.dtype, float("-inf"))
        return replace(i, op="convert", value=None) if i.op == "group_topk" else i

    return replace(expression, instructions=tuple(map(plain, expression.instructions)))
