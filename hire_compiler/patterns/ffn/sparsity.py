"""How many zeros a block's own code can be expected to give, and whether they follow from one product alone.

What is zero is proven by :mod:`hire_compiler.proofs.zeros`, on every call anew. Samples only say whether it may be
worth it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hire_compiler.graph.expression import Expression
from hire_compiler.patterns.ffn.activations import sample
from hire_compiler.proofs.zeros import GateStages, Known, NegativeGate, exactly, proven_zero, within

_USUAL = 50.0  # size of the products that are not looked at


def gate_stages(expression: Expression, streams: int, gate: int) -> GateStages:
    """The code cut in two by what follows from one product and the parameters."""
    early = expression.stages(frozenset({gate, *range(streams, expression.inputs)}))
    return GateStages(expression, early.known)


@lru_cache(maxsize=1024)
def zero_shares(expression: Expression, streams: int) -> tuple[float, ...]:
    """For every product, which share of random neurons it alone proves to be exactly zero."""
    samples = sample(expression, streams, 4096 if expression.rowwise else 320, grid=not expression.rowwise)
    vectors = dict(enumerate(samples.parameters, start=streams))
    shares = []
    for gate, points in enumerate(samples.streams):
        stages = gate_stages(expression, streams, gate)
        known = stages.first({gate: points} | vectors, exact=False)
        zero = stages.zero(known, {i: _USUAL for i in range(streams) if i != gate}, np)
        shares.append(float(np.mean(np.broadcast_to(zero, points.shape))))
    return tuple(shares)


@lru_cache(maxsize=1024)
def zero_far_below(expression: Expression, streams: int) -> bool:
    """Whether one product far below zero proves its neuron zero, as the clip of a hard swish does."""
    if expression.rowwise:
        return False
    vectors = dict(enumerate(sample(expression, streams, 64).parameters, start=streams))
    known = {i: within(_USUAL) for i in range(streams)} | {i: exactly(v, np) for i, v in vectors.items()}
    below = Known(False, -_USUAL, -_USUAL / 2)
    return any(bool(np.all(proven_zero(expression, known | {gate: below}, np))) for gate in range(streams))


def zero_where_negative(code: NegativeGate, streams: int) -> bool:
    """Whether a block is proven zero wherever its gate, its bias added, is negative."""
    samples = sample(code.expression, streams, 64)
    vectors = dict(enumerate(samples.parameters, start=streams))
    limits = dict.fromkeys(range(streams), _USUAL)
    zero = code.zero(np.asarray(True), _USUAL, limits, vectors, np)
    return bool(np.all(zero))
