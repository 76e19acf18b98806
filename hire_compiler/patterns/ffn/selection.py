"""Recognise that the author keeps only some neurons of each row: an explicit or a statistical top-k.

::

    v = top_k(h, k)[0];  where(h >= v[..., -1:], h, 0)             explicit, before or after the activation
    cut = mean(g) + c · std(g);  gelu(relu(g − cut)) · u           statistical (Gemma 3n)
    hire.group_topk(h, k, group)                                   in groups, by its own name

What is left out is exactly zero, so the definition of the activation is compared on what is kept alone. A
statistical cut also shifts what it keeps; the shift is found from the points themselves.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from hire_compiler.graph.expression import Expression
from hire_compiler.patterns.ffn.activations import ACTIVATIONS, TOLERANCE, Activation, Definition, sample
from hire_compiler.patterns.operations.match import NoMatch

_POINTS = 4096
_KEPT_AT_LEAST = 4

Array = np.ndarray


def recognise_selection(expression: Expression, streams: int) -> Activation:
    """Name the activation, and the kind of selection, of a region that draws numbers from whole rows.

    Raises:
      NoMatch: nothing is left out, or what is kept is no activation.
    """
    samples = sample(expression, streams, _POINTS, grid=False)
    kept = samples.result != 0
    ranked = any(instruction.op == "row_rank" for instruction in expression.instructions)
    named = any(instruction.op == "group_topk" for instruction in expression.instructions)
    selection = "group_topk" if named else "top_k" if ranked else "statistical_top_k"
    best, error = Activation("identity", 0, None), np.inf
    if _KEPT_AT_LEAST <= kept.sum() < _POINTS * 0.95:
        for gate, owners in product(range(streams), product(range(streams), repeat=len(samples.parameters))):
            shifted = [z[kept] for z in samples.shifted(owners)]
            others = np.prod([z for s, z in enumerate(shifted) if s != gate], axis=0) * np.ones(kept.sum())
            mine = [p for p, owner in enumerate(owners) if owner == gate]
            for name, definition in ACTIVATIONS.items():
                distance = _distance(definition, shifted[gate], others, samples.result[kept])
                if distance < error:
                    bias = mine[0] if len(mine) == 1 else None
                    best, error = Activation(name, gate, bias, selection, float(kept.mean())), distance
    if error < TOLERANCE:
        return best
    what = "the largest numbers of the whole row enter" if ranked or named else "a sum or an extreme of the row enters"
    raise NoMatch(f"{what} between the two products (a normalisation?)", depth=3)


def _distance(definition: Definition, z: Array, others: Array, got: Array) -> float:
    direct = _difference(definition(z) * others, got, others)
    if direct < TOLERANCE:
        return direct
    # Kept relative to a cut: act(z − cut). The point where the other factor is largest tells the cut.
    at = int(np.argmax(np.abs(others)))
    low, high = float(z.min()) - 20.0, float(z.min()) + 1e-9
    wanted = got[at] / others[at]
    for _ in range(80):
        middle = (low + high) / 2
        if definition(z[at : at + 1] - middle)[0] > wanted:
            low = middle
        else:
            high = middle
    return min(direct, _difference(definition(z - (low + high) / 2) * others, got, others))


def _difference(wanted: Array, got: Array, others: Array) -> float:
    return float(np.max(np.abs(wanted - got))) / max(1.0, float(np.max(np.abs(others))))
